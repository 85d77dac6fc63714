"""The one look of all pictures, and how a picture is saved with the table it shows.

Colours are those of Okabe and Ito, which stay apart under the common colour-vision
deficiencies; models also differ by marker and sides by position, so that no picture needs
its colours to be read.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lpa_interp.runs import atomic_path

Table = Sequence[Mapping[str, Any]]
"""Rows of a CSV file, one mapping of column to value each."""

WIDTH = 7.2
"""Width of every figure in inches: two columns of a paper, or a page of the report."""

INK, MUTED, GRID, BAND = "#1f2328", "#5c646d", "#dfe3e7", "#f4f6f8"
CONTROL = "#8b929a"
MODEL_COLOURS = {"source": "#6f767d", "base": "#0072B2", "lpa": "#D55E00"}
MODEL_MARKERS = {"source": "D", "base": "o", "lpa": "s"}
SIDE_COLOURS = {"harmful": "#9C3D7A", "harmless": "#00785A", "both": INK}

LOOK: Any = {
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture before it is saved: the figure, its words and the numbers it shows.

    ``caption`` says what is shown, n, the kind of interval, the control and what to look for;
    ``alt`` describes the picture to a reader who cannot see it.
    """

    figure: Figure
    table: Table
    title: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureInfo:
    """A saved picture. ``files`` are its PNG, PDF and CSV, in this order."""

    name: str
    title: str
    caption: str
    alt: str
    files: tuple[Path, Path, Path]


@contextmanager
def look() -> Iterator[None]:
    """Applies the shared look to every figure made and saved inside the block."""
    with matplotlib.rc_context(LOOK):
        yield


def save_figure(fig: Figure, table: Table, path: Path) -> tuple[Path, Path, Path]:
    """Writes ``path`` + .png (200 dpi), .pdf and .csv, each whole or not at all.

    Args:
        fig: The figure.
        table: The numbers it shows; columns are those of all rows in order of appearance.
        path: The path without a suffix.

    Returns:
        The paths of the PNG, the PDF and the CSV file.
    """
    png, pdf, table_file = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf", "csv"))
    with atomic_path(png) as temporary:
        fig.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
    # Laid out once: both pictures agree, and the second costs half.
    fig.set_layout_engine("none")
    with atomic_path(pdf) as temporary:
        # Without a date the same rows give the same bytes.
        fig.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    columns = list(dict.fromkeys(column for row in table for column in row))
    with (
        atomic_path(table_file) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as handle,
    ):
        writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return png, pdf, table_file


def as_table(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Records as rows of a table, every field a column."""
    return [dataclasses.asdict(record) for record in records]


def number(value: float | None) -> float:
    """The value, or NaN where the row holds null: matplotlib leaves NaN out."""
    return math.nan if value is None else float(value)


def numbers(values: Iterable[float | None]) -> list[float]:
    """`number` of each value."""
    return [number(value) for value in values]


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are finite numbers."""
    return [value for value in numbers(values) if math.isfinite(value)]


def models_in(rows: Iterable[Any]) -> list[str]:
    """Model labels that occur, in the order source, base, lpa."""
    found = {row.model for row in rows}
    return [m for m in MODEL_COLOURS if m in found] + sorted(found - set(MODEL_COLOURS))


def in_order(values: Iterable[Any]) -> list[Any]:
    """Distinct values in order of appearance."""
    return list(dict.fromkeys(values))


def colour_of(model: str) -> str:
    """The model's fixed colour."""
    return MODEL_COLOURS.get(model, CONTROL)


def plain(text: str) -> str:
    """Text from data, safe as a label: control and rare characters escaped, no mathtext."""
    return text.encode("unicode_escape").decode("ascii").replace("$", r"\$")


def draw_interval(
    ax: Axes, y: float, value: float | None, low: float | None, high: float | None, model: str
) -> None:
    """A dot with a horizontal interval. Drawn apart: a value may lie outside its interval."""
    colour = colour_of(model)
    ax.plot(numbers([low, high]), [y, y], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
    ax.plot(
        [number(value)],
        [y],
        marker=MODEL_MARKERS.get(model, "v"),
        color=colour,
        markeredgecolor="white",
        markeredgewidth=0.6,
        markersize=5.5,
        linestyle="none",
        zorder=3,
    )


def stripe_categories(ax: Axes, labels: Sequence[str]) -> None:
    """Names the rows of a dot plot, first on top, with every other row shaded."""
    for index in range(0, len(labels), 2):
        ax.axhspan(index - 0.5, index + 0.5, color=BAND, zorder=0, lw=0)
    ax.set_yticks(range(len(labels)), labels=[plain(label) for label in labels])
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)


def model_handles(models: Iterable[str]) -> list[Line2D]:
    """Legend entries for the models' dots."""
    return [
        Line2D(
            [], [], color=colour_of(m), marker=MODEL_MARKERS.get(m, "v"), linestyle="none", label=m
        )
        for m in models
    ]


def legend_above(fig: Figure, handles: Sequence[Any], columns: int | None = None) -> None:
    """One legend for the whole figure, above all panels, where it can cover no data."""
    fig.legend(handles=list(handles), loc="outside upper left", ncols=columns or len(handles))
