"""Causal test: what cutting a direction out does to refusal."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.rows import RunRows
from figures.style import (
    MUTED,
    SIDE_COLOURS,
    WIDTH,
    Drawing,
    as_table,
    draw_interval,
    in_order,
    legend_above,
    model_handles,
    models_in,
    stripe_categories,
)
from figures.wording import fixed, listing, n_text
from lpa_interp.records import AblationEffect

LABELS = {
    "trait": "trait",
    "refusal": "refusal",
    "random": "random\n(control)",
    "random_covariance": "random, typical\n(control)",
}


def draw_ablations(rows: RunRows) -> Drawing | None:
    """Change in refusal log-odds by ablated direction, a panel per side, KL at the margin."""
    found = [a for a in rows.ablations if a.ablated != "none"]
    if not found:
        return None
    kinds = [k for k in LABELS if any(a.ablated == k for a in found)]
    kinds += sorted({a.ablated for a in found} - set(LABELS))
    sides = [s for s in ("harmful", "harmless") if any(a.side == s for a in found)]
    models = models_in(found)
    height = 1.1 + 0.24 * len(kinds) * max(2, len(models))
    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = fig.subplots(1, len(sides), squeeze=False, sharex=True, sharey=True)[0]
    for side, ax in zip(sides, axes, strict=True):
        _draw_side(ax, [a for a in found if a.side == side], kinds, models)
        ax.set_title(f"{side.capitalize()} requests", color=SIDE_COLOURS[side])
        ax.set_xlabel("change in refusal log-odds, nats")
    axes[0].set_ylabel("direction ablated")
    legend_above(fig, model_handles(models))
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Causal test: refusal with a direction cut out",
        caption=_caption(rows.ablations),
        alt="Dot plot of the change in refusal log-odds when the "
        f"{listing(kinds)} direction is ablated, with intervals and KL, for {listing(models)} on "
        f"{listing(sides)} requests.",
    )


def _draw_side(ax: Axes, cell: list[AblationEffect], kinds: list[str], models: list[str]) -> None:
    stripe_categories(ax, kinds)
    ax.set_yticks(range(len(kinds)), labels=[LABELS.get(kind, kind) for kind in kinds])
    ax.axvline(0, color=MUTED, lw=0.8, ls=":", zorder=1)
    for effect in cell:
        gap = 0.8 / max(2, len(models))
        y = kinds.index(effect.ablated) + gap * (models.index(effect.model) - (len(models) - 1) / 2)
        draw_interval(ax, y, effect.change, effect.change_low, effect.change_high, effect.model)
        # Axes fraction across, data down: the margin keeps the numbers clear of the bars.
        ax.text(
            1.02,
            y,
            f"KL {fixed(effect.kl, 3)}" if effect.kl is not None else "KL n/a",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=6.5,
            color=MUTED,
        )


def _caption(effects: list[AblationEffect]) -> str:
    start = [
        f"{a.model}, {a.side} {fixed(a.refusal_log_odds)}" for a in effects if a.ablated == "none"
    ]
    baseline = f" Unmodified log-odds in nats: {'; '.join(start)}." if start else ""
    draws = in_order(a.n_draws for a in effects if a.ablated == "random")
    random = f", mean of {listing(str(d) for d in draws)} draws" if draws else ""
    return (
        "Mean change in refusal log-odds when a direction is projected out of the residual "
        f"stream at every layer and token, {n_text(a.n for a in effects)} requests per dot, bars "
        f"are 95 % intervals over requests. Control: random directions{random}.{baseline} KL at "
        "the margin is KL(unmodified || ablated) in nats at the last prompt token: a large value "
        "means that the ablation damages the model at large. Look for: a trait interval that "
        "excludes zero and is clear of the random control's. If only the refusal direction "
        "moves refusal, the trait direction is a correlate, not a carrier."
    )
