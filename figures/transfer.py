"""Does a probe of one set of texts read another? Every training set against every test set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from figures.curves import hook_kind
from figures.rows import RunRows
from figures.style import (
    INK,
    WIDTH,
    Drawing,
    as_table,
    colour_of,
    in_order,
    legend_above,
    models_in,
    number,
    plain,
)
from figures.wording import ALPHA, count_of, fixed, listing, n_text
from lpa_interp.records import ProbeTransfer

BESIDE = 4
"""Test sets up to which the models' matrices fit side by side."""
ROOMY = 8
"""Test sets up to which a cell has room for its interval."""
COLOURS = "BrBG"
Matrix = tuple[str, str, str]
"""Model, method and hook point."""


def draw_transfer(rows: RunRows) -> Drawing | None:
    """A heat map per model: training sets by test sets, AUROC with its interval in the cell."""
    matrices = in_order(_matrix(t) for t in rows.transfer)
    if not matrices:
        return None
    models = models_in(rows.transfer)
    drawn = [next(m for m in matrices if m[0] == model) for model in models]
    shown = [t for t in rows.transfer if _matrix(t) in drawn]
    fig, axes = _panels(len(drawn), shown)
    for matrix, ax in zip(drawn, axes, strict=True):
        image = _draw_matrix(ax, [t for t in shown if _matrix(t) == matrix], shown)
        layer = next(t.layer for t in shown if _matrix(t) == matrix)
        ax.set_title(f"{matrix[0]}, layer {layer}", color=colour_of(matrix[0]))
        ax.label_outer()
    bar = fig.colorbar(image, ax=axes, location="right", aspect=24, pad=0.02, label="AUROC")
    bar.outline.set_visible(False)
    legend_above(fig, _legend())
    return Drawing(
        figure=fig,
        table=as_table(shown),
        title="Transfer of probes between sets of texts",
        caption=_caption(shown, len(drawn), len(matrices)),
        alt="Heat maps of AUROC, training sets down and test sets across "
        f"({listing(in_order(plain(t.test) for t in shown))}), for {listing(models)}; a dot marks "
        "transfer that differs from chance, a frame the diagonal.",
    )


def _matrix(row: ProbeTransfer) -> Matrix:
    return row.model, row.method, row.hook_name


def _panels(count: int, shown: Sequence[ProbeTransfer]) -> tuple[Figure, list[Axes]]:
    """Side by side while the names fit, one below the other from there on."""
    train, test = (in_order(getattr(t, name) for t in shown) for name in ("train", "test"))
    beside = len(test) <= BESIDE
    lines, columns = (1, count) if beside else (count, 1)
    height = 0.85 + max(0.3, 0.5 - 0.02 * len(test)) * len(train)
    fig = Figure(figsize=(WIDTH, 0.45 + lines * height), layout="constrained")
    return fig, list(fig.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)


def _draw_matrix(
    ax: Axes, cells: Sequence[ProbeTransfer], shown: Sequence[ProbeTransfer]
) -> AxesImage:
    train, test = (in_order(getattr(t, name) for t in shown) for name in ("train", "test"))
    grid = np.full((len(train), len(test)), np.nan)
    for cell in cells:
        row, column = train.index(cell.train), test.index(cell.test)
        grid[row, column] = number(cell.auroc)
        _draw_cell(ax, row, column, cell, len(test))
    image = ax.imshow(grid, cmap=COLOURS, norm=Normalize(0, 1), aspect="auto")
    names = [f"{_broken(n)}\n{n_text(t.n_test for t in shown if t.test == n)}" for n in test]
    ax.set_xticks(range(len(test)), labels=names)
    if len(test) > ROOMY:
        ax.tick_params(axis="x", labelrotation=90)
    names = [f"{_broken(n)}\n{n_text(t.n_train for t in shown if t.train == n)}" for n in train]
    ax.set_yticks(range(len(train)), labels=names)
    ax.tick_params(length=0, labelsize=6.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("tested on")
    ax.set_ylabel("fitted to")
    return image


def _broken(name: str) -> str:
    """A name over two lines, broken after its source."""
    return plain(name).replace(":", ":\n")


def _draw_cell(ax: Axes, row: int, column: int, cell: ProbeTransfer, n_test: int) -> None:
    value = number(cell.auroc)
    ink = "white" if abs(value - 0.5) > 0.33 else INK
    roomy = n_test <= ROOMY
    y = row - 0.14 if roomy else row
    clear = cell.p_adjusted is not None and cell.p_adjusted < ALPHA
    size = 8.5 if roomy else 6.0
    text = fixed(cell.auroc) if np.isfinite(value) else "n/a"
    weight = "bold" if clear else "normal"
    ax.text(column, y, text, ha="center", va="center", fontsize=size, color=ink, fontweight=weight)
    if roomy:
        ends = " to ".join(fixed(end) for end in (cell.low, cell.high))
        small = {"ha": "center", "va": "center", "fontsize": 5.8, "color": ink}
        ax.text(column, row + 0.24, ends, **small)  # type: ignore[arg-type]
    if clear:
        ax.plot([column + 0.38], [row - 0.32], marker="o", markersize=2.8, color=ink)
    if cell.train == cell.test:
        box = (column - 0.47, row - 0.46)
        ax.add_patch(Rectangle(box, 0.94, 0.92, fill=False, edgecolor=INK, lw=1.1))


def _legend() -> list[object]:
    return [
        Line2D([], [], marker="o", markersize=3, ls="none", color=INK,
               label=f"bold, with a dot: differs from chance (adjusted p < {ALPHA})"),
        Patch(fill=False, edgecolor=INK, lw=1.1, label="same set, cross-validated"),
    ]  # fmt: skip


def _words(name: str) -> str:
    return name.replace("_", " ")


def _caption(shown: Sequence[ProbeTransfer], drawn: int, found: int) -> str:
    left_out = ""
    if drawn < found:
        matrices = count_of(found, "matrix", "matrices")
        left_out = f" The first matrix of each model is drawn, {drawn} of {matrices}."
    draws = n_text(t.n_permutations for t in shown).removeprefix("n = ")
    groups = n_text(t.n_test_groups for t in shown)
    overlap = listing(
        in_order(
            f"{t.train} and {t.test} ({t.n_shared_groups})"
            for t in shown
            if t.train != t.test and t.n_shared_groups
        )
    )
    shared = f" Sets that share groups: {overlap}." if overlap else ""
    kinds = listing(in_order(f"{_words(t.method)} at {hook_kind(t.hook_name)}" for t in shown))
    return (
        f"AUROC of a probe ({kinds}) fitted to one set of texts (down) and read on another "
        "(across), with its 95 % interval over the test set's groups, directions held fixed "
        f"({n_text(t.n_test for t in shown)} texts in {groups} groups). No text is scored by a "
        "direction that saw its group, so the framed diagonal is cross-validated; it says how "
        "well a set can be read at all. Dots: two-sided p from test labels permuted by group "
        f"({draws} permutations), Benjamini-Hochberg over the cells off the diagonal, below "
        f"{ALPHA}; permuted labels are the control.{shared} Look for: dots in a row off the "
        "diagonal, which mean that the probe has learned something the two sets share and not "
        "one set's words. Brown cells below one half read the other set the wrong way round."
        f"{left_out}"
    )
