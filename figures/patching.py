"""Activation patching: at which layer the refusal that training gained can be moved across."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from figures.curves import Curve, draw_curve, layer_axis
from figures.rows import RunRows
from figures.style import (
    CONTROL,
    INK,
    MUTED,
    SIDE_COLOURS,
    WIDTH,
    Drawing,
    as_table,
    colour_of,
    finite,
    in_order,
    legend_above,
    plain,
)
from figures.wording import MINUS, fixed, listing, n_text, sentence_case
from lpa_interp.records import PatchEffect

MODELS = {"trained into base": ("lpa", "base"), "base into trained": ("base", "lpa")}
"""Each way of patching: the donor of the activations and the recipient."""
CONTROLS = {
    "none": "donor's, same request",
    "mismatched": "donor's, another request (control)",
    "own_mismatched": "recipient's own, another request (control)",
}
"""Whose activations are put in, in words."""
POSITIONS = {"last": "last token", "post_instruction": "all tokens after the instruction"}
ENDS = (-1.0, 2.0)
"""Shares that the axis goes to at most; an interval may run further."""


def draw_patches(rows: RunRows) -> Drawing | None:
    """Recovered share by layer: a row per side and way, a column per set of positions."""
    found = rows.patches
    if not found:
        return None
    lines = sorted(in_order((p.side, p.direction) for p in found), key=lambda line: line[0])
    positions = [name for name in POSITIONS if any(p.positions == name for p in found)]
    cells = [[p for p in found if (p.side, p.direction) == line] for line in lines]
    shown = [cell for cell in cells if finite(p.recovered for p in cell)]
    fig = _figure(shown, positions) if shown else _words_alone(_sentences(found))
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Where the refusal gained sits: one model's activations in the other",
        caption=_caption(found),
        alt="Line charts of the share of the refusal gain recovered by layer for "
        f"{listing(POSITIONS[name] for name in positions)}, with bands, "
        f"beside activations of other requests; lines at none and all of the gain. "
        f"{len(shown)} of {len(cells)} pairs of side and way have a gain to recover.",
    )


def _figure(shown: Sequence[Sequence[PatchEffect]], positions: Sequence[str]) -> Figure:
    fig = Figure(figsize=(WIDTH, 0.7 + 1.9 * len(shown)), layout="constrained")
    axes = fig.subplots(len(shown), len(positions), squeeze=False, sharex=True, sharey=True)
    for cell, axis_row in zip(shown, axes, strict=True):
        _draw_line(axis_row, cell, positions)
    for ax in axes[-1]:
        ax.set_xlabel("layer before which the residual stream is put in")
    legend_above(fig, _legend())
    return fig


def _words_alone(sentences: Sequence[str]) -> Figure:
    """Where no side has a share there is nothing to draw, and the picture says so."""
    fig = Figure(figsize=(WIDTH, 0.4 + 0.2 * len(sentences)), layout="constrained")
    fig.text(0.02, 0.5, "\n".join(map(plain, sentences)).replace(r"\u2212", MINUS), va="center")
    return fig


def _draw_line(
    axis_row: Sequence[Axes], cell: Sequence[PatchEffect], positions: Sequence[str]
) -> None:
    """The panels of one side and way of patching."""
    donor, recipient = MODELS[cell[0].direction]
    for name, ax in zip(positions, axis_row, strict=True):
        for control, (colour, dashes) in _looks(donor).items():
            mine = [p for p in cell if (p.positions, p.control) == (name, control)]
            if mine:
                _draw_curve(ax, mine, colour, dashes)
        for height, dashes in ((0, ()), (1, (4, 2))):
            ax.axhline(height, color=INK, lw=0.8, ls=(0, dashes), zorder=1)
        layer_axis(ax)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{fixed(100 * y, 0)} %"))
        ends = ax.get_ylim()
        ax.set_ylim(max(ENDS[0], min(-0.15, ends[0])), min(ENDS[1], max(1.15, ends[1])))
        title = f"{cell[0].side.capitalize()}, {POSITIONS[name]}"
        ax.set_title(title, color=SIDE_COLOURS[cell[0].side])
    axis_row[0].set_ylabel(f"{donor} into {recipient}:\nshare recovered")


def _looks(donor: str) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Colour and dashes by control: the patch itself in the colour of its donor."""
    return {
        "own_mismatched": (CONTROL, (1.0, 1.2)),
        "mismatched": (MUTED, (4.0, 2.0)),
        "none": (colour_of(donor), ()),
    }


def _draw_curve(ax: Axes, mine: list[PatchEffect], colour: str, dashes: tuple[float, ...]) -> None:
    mine.sort(key=lambda p: p.layer)
    low, high = ([getattr(p, f"recovered_{end}") for p in mine] for end in ("low", "high"))
    x, y = [p.layer for p in mine], [p.recovered for p in mine]
    draw_curve(ax, Curve(x=x, y=y, low=low, high=high, colour=colour, dashes=dashes))


def _legend() -> list[Line2D]:
    handles = []
    for control, words in CONTROLS.items():
        colour, dashes = _looks("lpa")[control]
        colour = INK if control == "none" else colour
        handles.append(Line2D([], [], color=colour, ls=(0, dashes), label=words))
    return handles


def _caption(found: Sequence[PatchEffect]) -> str:
    level = listing(f"{fixed(100 * level, 0)} %" for level in sorted({p.level for p in found}))
    return (
        "One model's residual stream is put into the other before one layer, at the last prompt "
        "token or at all of the template's tokens after the instruction, and the share of the "
        "difference in refusal log-odds between the two models that this makes up is shown: 100 % "
        "where the recipient then refuses as the donor does. Lines have the donor's colour, bands "
        f"are {level} intervals over requests ({n_text(p.n for p in found)}). Controls: the "
        "donor's activations on another request of the same side, and the recipient's own on "
        f"another request, which should recover nothing. {' '.join(_sentences(found))} Look for: "
        "the layers over which the share rises; there the gain comes to sit at these tokens. What "
        "the donor's activations on another request recover as well is a general lean towards "
        "refusal, not a judgement of this request."
    ).replace("  ", " ")


def _sentences(found: Sequence[PatchEffect]) -> list[str]:
    """What has no share, and why."""
    return [
        f"{sentence_case(side)} requests have no share: {reason.replace('-', MINUS)}."
        for side, reason in in_order((p.side, p.reason) for p in found if p.recovered is None)
    ]
