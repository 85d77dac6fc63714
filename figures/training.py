"""The training curves: what the attack and the defence did, step by step."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from figures.rows import RunRows
from figures.style import INK, MUTED, WIDTH, Drawing, as_table, legend_above, numbers
from figures.wording import count_of
from lpa_interp.records import TrainingStep

Dashes = tuple[float, tuple[float, ...]]
"""Line style: offset and on-off pattern in points; an empty pattern is a solid line."""

ATTACK, DEFENCE, RETAIN = "#9C3D7A", "#00785A", "#B07A00"
SOLID: Dashes = (0, ())
DASHED: Dashes = (0, (4, 2))

Curve = tuple[str, str, Dashes]
"""Field of `TrainingStep`, colour, line style."""

PANELS: tuple[tuple[str, str, tuple[Curve, ...]], ...] = (
    (
        "Attack loss",
        "nats per token",
        (("attack_toward", ATTACK, SOLID), ("attack_away", ATTACK, DASHED)),
    ),
    (
        "Defence loss",
        "nats per token",
        (("defence_toward", DEFENCE, SOLID), ("defence_away", DEFENCE, DASHED)),
    ),
    ("Retain loss", "nats per token", (("retain", RETAIN, SOLID),)),
    ("Perturbation norm", "mean L2 norm", (("perturbation_norm", ATTACK, SOLID),)),
    ("On the epsilon bound", "share of pairs", (("epsilon_bound_fraction", INK, SOLID),)),
    ("Gradient norm", "before clipping", (("grad_norm", MUTED, SOLID),)),
)


def draw_training_curves(rows: RunRows) -> Drawing | None:
    """Six small panels by outer step: losses, perturbation norm, bound share, gradient norm."""
    steps = sorted(rows.training, key=lambda row: row.step)
    if not steps:
        return None
    fig = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    axes = fig.subplots(2, 3, sharex=True)
    for ax, (title, unit, curves) in zip(axes.flat, PANELS, strict=True):
        _draw_panel(ax, steps, title, unit, curves)
    for ax in axes[1]:
        ax.set_xlabel("outer step")
    share = axes[1, 1]
    share.set_ylim(-0.04, 1.04)
    share.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    styles = (("toward", SOLID), ("away", DASHED))
    legend_above(fig, [Line2D([], [], color=INK, linestyle=s, label=k) for k, s in styles])
    return Drawing(
        figure=fig,
        table=as_table(steps),
        title="Training: attack, defence and the epsilon bound",
        caption=_caption(steps),
        alt="Six line charts by outer step: attack loss, defence loss, retain loss, perturbation "
        "norm, share of perturbations on the epsilon bound, gradient norm.",
    )


def _draw_panel(
    ax: Axes, steps: list[TrainingStep], title: str, unit: str, curves: tuple[Curve, ...]
) -> None:
    x = [row.step for row in steps]
    for name, colour, dashes in curves:
        y = numbers(getattr(row, name) for row in steps)
        # Markers keep a short or broken series visible; in a long one they would hide it.
        marker = "o" if len(steps) <= 40 else None
        ax.plot(x, y, color=colour, linestyle=dashes, marker=marker, markersize=3)
    ax.set_title(title)
    ax.set_ylabel(unit)
    low, high = ax.get_ylim()
    # From zero, so that a small change looks small; the margin keeps the last marker whole.
    bottom = min(0.0, low)
    ax.set_ylim(bottom, high + 0.05 * (high - bottom))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _caption(steps: list[TrainingStep]) -> str:
    return (
        f"One value per outer step ({count_of(len(steps), 'step')}); single run, so no interval. "
        "The attack losses are those of the last PGD iteration: low means that the perturbation "
        "forces the undesired answer (toward) and suppresses the desired one (away). The "
        "defence and retain losses are means over the step's model updates. Look for: a defence "
        "loss that falls while the attack is still strong, a retain loss that stays small, and "
        "whether (site, token) pairs reach the epsilon bound; where none do, the bound plays no "
        "part and the attack is limited by its step size and number of steps. The "
        "perturbation norm is in the units of the activations."
    )
