"""The training curves: what the attack did and what the update took back, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures.method import train_setting
from figures.rows import RunRows
from figures.style import INK, MUTED, WIDTH, Drawing, as_table, legend_above, numbers
from figures.wording import MINUS, count_of
from lpa_interp.records import TrainingStep

ATTACK, DEFENCE, RETAIN = "#9C3D7A", "#00785A", "#B07A00"
LONG_RUN = 40
"""Steps from which markers would hide the lines."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: field of `TrainingStep`, its name in the legend, and how it is drawn."""

    field: str
    label: str
    colour: str
    marker: str
    dashes: tuple[float, ...] = ()
    size: float = 4.0
    """Of the marker, points: where curves coincide, a larger one below still shows."""

    def line(self, x: Sequence[float], y: Sequence[float], *, markers: bool = True) -> Line2D:
        """The curve through the points; without points it serves as a legend entry."""
        return Line2D(
            x,
            y,
            color=self.colour,
            linestyle=(0, self.dashes),
            marker=self.marker if markers else "",
            markersize=self.size,
            linewidth=0.4 * self.size,
            label=self.label,
        )


STATES = (
    Curve("{}_start", "without the attack", MUTED, "o", (3, 1.5)),
    Curve("{}", "under the attack", ATTACK, "s", (), 5.0),
    Curve("{}_after", "same attack, after the update", DEFENCE, "D", (), 3.0),
)
"""A loss of the attack at three moments of a step."""

UNATTACKED = (
    Curve("{}_start", "before the update", MUTED, "o", (3, 1.5), 5.0),
    Curve("{}_after", "after the update", DEFENCE, "D", (), 3.0),
)
"""The same for a method that attacks nothing."""

LEARNING = (
    Curve("objective", "objective (weighted sum)", INK, "o"),
    Curve("defence_toward", "defence, toward", DEFENCE, "^"),
    Curve("defence_away", "defence, away", DEFENCE, "v", (4, 2)),
)
KEEPING = (Curve("retain", "retain", RETAIN, "P"),)

SIDES = (
    ("attack_toward", "Toward the undesired answer", "cross entropy"),
    ("attack_away", "Away from the desired answer", f"{MINUS}log(1 {MINUS} p)"),
)


def is_attacked(steps: Sequence[TrainingStep]) -> bool:
    """Whether anything was done to the model's activations: the loss under attack differs."""
    return any(
        (s.attack_toward, s.attack_away) != (s.attack_toward_start, s.attack_away_start)
        for s in steps
    )


def draw_training_curves(rows: RunRows) -> Drawing | None:
    """Four panels by outer step: toward and away in three states, defence losses, retain."""
    steps = sorted(rows.training, key=lambda row: row.step)
    if not steps:
        return None
    attacked = is_attacked(steps)
    states = STATES if attacked else UNATTACKED
    fig = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    upper, (left, right) = fig.subplots(2, 2, sharex=True)
    for ax, (field, title, unit) in zip(upper, SIDES, strict=True):
        curves = [(curve.field.format(field), curve) for curve in states]
        _draw_panel(ax, steps, title, f"{unit}\nnats per token", curves)
    what = _retained_by(rows)
    unit = "nats per token" + ("\n(objective: mixed units)" if _is_mixed(rows) else "")
    _draw_panel(left, steps, "Defence losses", unit, [(c.field, c) for c in LEARNING])
    _draw_panel(right, steps, "Retain loss", what, [(c.field, c) for c in KEEPING])
    for ax in (left, right):
        ax.set_xlabel("outer step")
    legend_above(fig, _legend(states, steps))
    # Below the panels that it is for.
    fig.legend(handles=_legend((*LEARNING, *KEEPING), steps), loc="outside lower left", ncols=4)
    return Drawing(
        figure=fig,
        table=as_table(steps),
        title="Training: what the attack did and what the update took back"
        if attacked
        else "Training: losses before and after each update",
        caption=_caption(rows, steps),
        alt="Four line charts by outer step. Loss toward the undesired and away from the desired "
        f"answer, each {', '.join(curve.label for curve in states)}; objective and defence "
        "losses; retain loss.",
    )


def _legend(curves: Sequence[Curve], steps: list[TrainingStep]) -> list[Line2D]:
    return [curve.line([], [], markers=len(steps) <= LONG_RUN) for curve in curves]


def _draw_panel(
    ax: Axes, steps: list[TrainingStep], title: str, unit: str, curves: list[tuple[str, Curve]]
) -> None:
    x = [row.step for row in steps]
    for field, curve in curves:
        y = numbers(getattr(row, field) for row in steps)
        # Markers keep a short or broken series visible; in a long one they would hide it.
        ax.add_line(curve.line(x, y, markers=len(steps) <= LONG_RUN))
    ax.autoscale_view()
    ax.set_title(title)
    ax.set_ylabel(unit)
    low, high = ax.dataLim.intervaly
    # From zero, so that a small change looks small; the margins keep markers whole.
    low, high = min(0.0, low), high if high > 0 else 1.0
    ax.set_ylim(low - 0.04 * (high - low), high + 0.1 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _retained_by(rows: RunRows) -> str:
    """What the study's retain term measures, with its unit."""
    terms = (
        ("defence_sft", "cross entropy\nnats per token"),
        ("defence_kl", "KL to the base\nnats per token"),
        ("defence_representation", "distance to the base\nactivation units"),
    )
    known = [words for key, words in terms if train_setting(rows, key)]
    return known[0] if len(known) == 1 else "as logged"


def _is_mixed(rows: RunRows) -> bool:
    """Whether the objective has terms in other units than nats per token."""
    others = ("defence_dpo", "defence_reroute", "defence_representation")
    return any(train_setting(rows, key) for key in others)


def _caption(rows: RunRows, steps: list[TrainingStep]) -> str:
    size = train_setting(rows, "batch_size")
    batch = f", each a mean over {count_of(size, 'statement')}" if isinstance(size, int) else ""
    shared = (
        f"One value per outer step (n = {count_of(len(steps), 'step')}{batch}); one run, so no "
        "interval. The lines of a step are of the same statements, so compare them within a "
        "step: the next step has other statements. "
    )
    after = (
        "Defence and retain losses are means over the step's model updates; the objective is the "
        "weighted sum that they lower, of every term that the method uses, in the units of these. "
    )
    if not is_attacked(steps):
        return (
            f"{shared}Nothing was done to the activations. {after}Look for: a loss toward the "
            "undesired answer and away from the desired one that is higher after the update than "
            "before it, and a retain loss that stays small."
        )
    return (
        f"{shared}Low means that the undesired answer is likely (toward) or the desired one "
        "unlikely (away): the attack lowers both losses, the update should raise them again "
        f"under the same perturbation. {after}Look for: an attack line well below the grey one, "
        "for otherwise there was nothing to learn from; the green line back near the grey one; "
        "attacks that achieve less in later steps; and a retain loss that stays small."
    )
