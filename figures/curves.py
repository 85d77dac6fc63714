"""Curves by layer or dose over the band of their null, and the fixed looks of what they show."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from figures.style import CONTROL, INK, MODEL_COLOURS, MUTED, SIDE_COLOURS, finite, numbers, plain
from figures.wording import ALPHA

Values = Iterable[float | None]
RowT = TypeVar("RowT", bound=Any)

DIRECTIONS = {
    "trait": ("#B07A00", "o"),
    "refusal": ("#4F46A3", "s"),
    "harmfulness": (SIDE_COLOURS["harmful"], "^"),
    "shift": (MODEL_COLOURS["lpa"], "D"),
}
"""Colour and marker of the directions that have a name of their own."""
OTHERS = (("#00785A", "v"), (INK, "P"), ("#0072B2", "X"))
"""Those of any others, in order of appearance."""

COVARIANCE = "random with the activations' covariance"
NULLS = {"random": "random, isotropic", COVARIANCE: "random, same covariance"}
"""Random nulls by the name that rows give them, as legends write them."""


def looks_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each direction; the same direction always has the same."""
    found, free = {}, 0
    for name in names:
        if name not in DIRECTIONS:
            found[name] = OTHERS[free % len(OTHERS)]
            free += 1
        else:
            found[name] = DIRECTIONS[name]
    return found


def hook_kind(hook_name: str) -> str:
    """The hook point without its layer: ``resid_pre`` of ``blocks.3.hook_resid_pre``."""
    return re.sub(r"^(blocks\.\d+\.)?(hook_)?", "", hook_name)


def swept(rows: Sequence[RowT], key: Callable[[RowT], Hashable]) -> list[RowT]:
    """Rows whose key was read at several layers, or all where none was.

    A check at one layer is no line, and would take a panel from those that are.
    """
    layers: dict[Hashable, set[int]] = {}
    for row in rows:
        layers.setdefault(key(row), set()).add(row.layer)
    several = {name for name, found in layers.items() if len(found) > 1}
    return [row for row in rows if key(row) in several or not several]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line with its interval.

    ``hollow`` says which of its markers are drawn unfilled; ``through`` is a point that the line
    passes without a marker, since it is known and not measured.
    """

    x: Sequence[float]
    y: Values
    low: Values = ()
    high: Values = ()
    colour: str
    marker: str = ""
    dashes: tuple[float, ...] = ()
    hollow: Sequence[bool] = ()
    width: float = 1.4
    through: tuple[tuple[float, float], ...] = ()


def draw_curve(ax: Axes, curve: Curve) -> None:
    """Draws line, interval and markers; what is null leaves a gap."""
    y = numbers(curve.y)
    low, high = numbers(curve.low), numbers(curve.high)
    colour = curve.colour
    if low and len(curve.x) > 1:
        ax.fill_between(curve.x, low, high, color=colour, alpha=0.15, lw=0, zorder=1.5)
    elif low:
        ax.vlines(curve.x, low, high, color=colour, lw=1.2)
    line = sorted([*zip(curve.x, y, strict=True), *curve.through])
    ax.plot(*zip(*line, strict=True), color=colour, lw=curve.width, ls=(0, curve.dashes), zorder=2)
    marker = curve.marker or ("o" if len(curve.x) == 1 else "")
    hollow = curve.hollow or [False] * len(y)
    for filled, face in ((False, "white"), (True, colour)):
        places = [place for place, empty in enumerate(hollow) if empty is not filled]
        ax.plot(
            [curve.x[place] for place in places],
            [y[place] for place in places],
            ls="none",
            marker=marker,
            markersize=3.6,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=0.9,
            zorder=3,
        )


def draw_null(ax: Axes, x: Sequence[float], low: Values, high: Values, look: Any) -> None:
    """The central part of a null as a band, wide enough to be seen at a single layer."""
    low, high = numbers(low), numbers(high)
    if len(x) == 1:
        x, low, high = [x[0] - 0.4, x[0] + 0.4], low * 2, high * 2
    if look.get("ls"):
        for edge in (low, high):
            ax.plot(x, edge, color=look["color"], ls=look["ls"], lw=0.9, zorder=1.4)
    else:
        ax.fill_between(x, low, high, **look, lw=0, zorder=1.2)


def joint_null(rows: Sequence[Any]) -> tuple[list[int], list[float], list[float]]:
    """Layers with one band for several lines: from the lowest end of theirs to the highest."""
    layers = sorted({row.layer for row in rows})
    at = [[row for row in rows if row.layer == layer] for layer in layers]
    low = [min(finite(row.null_low for row in some), default=math.nan) for some in at]
    high = [max(finite(row.null_high for row in some), default=math.nan) for some in at]
    return layers, low, high


def null_looks(nulls: Sequence[str]) -> dict[str, Any]:
    """How each null's band is drawn: shades for random ones, dashed edges for permuted labels."""
    if len(nulls) == 1:
        return {nulls[0]: {"color": CONTROL, "alpha": 0.3}}
    shades = {"random": 0.55, COVARIANCE: 0.22}
    edges = {"color": MUTED, "ls": (0, (3, 1.5))}
    return {n: {"color": CONTROL, "alpha": shades[n]} if n in shades else edges for n in nulls}


def beyond_nulls_legend(nulls: Sequence[str], filled: str, hollow: str) -> list[object]:
    """Legend entries of markers that are filled where a value stands against every null.

    Args:
        nulls: Names of the nulls, whose bands follow.
        filled: What a filled marker means, before "every null".
        hollow: What a hollow one means.
    """
    every = "every null" if len(nulls) > 1 else "the null"
    look = {"marker": "o", "markersize": 4, "color": INK, "ls": "none"}
    return [
        Line2D([], [], **look, label=f"{filled} {every} (adjusted p < {ALPHA})"),  # type: ignore[arg-type]
        Line2D([], [], **look, markerfacecolor="white", label=hollow),  # type: ignore[arg-type]
        *null_handles(nulls),
    ]


def null_handles(nulls: Sequence[str]) -> list[Patch | Line2D]:
    """Legend entries for the bands of nulls."""
    handles: list[Patch | Line2D] = []
    for null, look in null_looks(nulls).items():
        label = f"null: {NULLS.get(null, plain(null))}"
        edges = look.get("ls")
        handles.append(
            Line2D([], [], **look, lw=0.9, label=label) if edges else Patch(**look, label=label)
        )
    return handles


def even_out(handles: list[Any]) -> list[Any]:
    """Legend entries with an empty one where they are odd: in two rows, the next begin a column."""
    return handles + [Line2D([], [], ls="none", label=" ")] * (len(handles) % 2)


def layer_axis(ax: Axes) -> None:
    """Whole numbers on the layer axis."""
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
