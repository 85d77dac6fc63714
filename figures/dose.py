"""Dose and response: refusal and KL as a direction is added, or cut out by degrees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.curves import Curve, draw_curve, looks_of
from figures.findings import DAMAGE_KL
from figures.rows import RunRows
from figures.style import (
    BAND,
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
    models_in,
    number,
    plain,
)
from figures.wording import fixed, listing, n_text
from lpa_interp.records import DoseEffect

INTERVENTIONS = {"add": "added", "ablate": "cut out"}
AXES = {"add": "dose, multiples of the\nraw difference", "ablate": "fraction cut out"}
DASHES = ((1.0, 1.2), (4.0, 2.0), (6.0, 2.0, 1.0, 2.0))
"""Of the random controls, one for each direction that they belong to."""
LEAST_KL = 0.01
"""Nats below which the KL axis is linear, so that a KL of zero has a place on it."""
DAMAGE: Any = {"facecolor": BAND, "edgecolor": "#c3c9cf", "hatch": "////", "linewidth": 0}
Kind = tuple[str, str]
"""Intervention and side: a column."""
Name = tuple[str, str, int]
"""Direction, what it is a control of, and layer: a line."""


def draw_doses(rows: RunRows) -> Drawing | None:
    """Refusal over dose and KL below it: a pair of rows per model, a column per kind of dose."""
    found = rows.doses
    if not found:
        return None
    kinds = [
        (intervention, side)
        for intervention in INTERVENTIONS
        for side in ("harmful", "harmless")
        if any((d.intervention, d.side) == (intervention, side) for d in found)
    ]
    models, ratios = models_in(found), [1.45 if kind[0] == "add" else 1.0 for kind in kinds]
    fig = Figure(figsize=(WIDTH, 0.85 + 2.5 * len(models)), layout="constrained")
    sizes = {"height_ratios": [1.7, 1.0] * len(models), "width_ratios": ratios}
    shape = (2 * len(models), len(kinds))
    axes = fig.subplots(*shape, squeeze=False, sharex="col", sharey="row", gridspec_kw=sizes)
    lines = _lines(found)
    top = 2 * max([DAMAGE_KL, *finite(d.kl for d in found)])
    for column, kind in enumerate(kinds):
        for index, model in enumerate(models):
            odds, kl = axes[2 * index, column], axes[2 * index + 1, column]
            cell = [d for d in found if (d.intervention, d.side, d.model) == (*kind, model)]
            _draw_pair(odds, kl, cell, lines, top)
            if column == 0:
                odds.set_ylabel(f"{model}: refusal\nlog-odds, nats", color=colour_of(model))
                kl.set_ylabel("KL, nats")
        title = f"{kind[1].capitalize()}, {INTERVENTIONS[kind[0]]}"
        axes[0, column].set_title(title, color=SIDE_COLOURS[kind[1]])
        axes[-1, column].set_xlabel(AXES[kind[0]])
    legend_above(fig, _legend(lines), columns=4)
    return Drawing(
        figure=fig,
        table=as_table(found),
        title="Dose and response: refusal as directions are added and cut out",
        caption=_caption(found),
        alt="Line charts of refusal log-odds against dose, with KL below, for "
        f"{listing(_words(lines))}, on {listing(in_order(k[1] for k in kinds))} "
        f"requests, for {listing(models)}; doses with a KL above {fixed(DAMAGE_KL, 0)} nat are in "
        "a hatched region and hollow.",
    )


def _lines(found: Sequence[DoseEffect]) -> dict[Name, dict[str, Any]]:
    """The lines of every panel with their looks: directions in colour, controls in grey."""
    names = in_order((d.direction, d.control_of, d.layer) for d in found)
    looks = looks_of(in_order(name for name, control_of, _ in names if not control_of))
    owners = in_order(control_of for _, control_of, _ in names if control_of)
    lines = {}
    for name in sorted(names, key=lambda n: bool(n[1])):
        if name[1]:
            dashes = DASHES[owners.index(name[1]) % len(DASHES)]
            lines[name] = {"colour": CONTROL, "marker": "o", "dashes": dashes, "width": 1.1}
        else:
            lines[name] = dict(zip(("colour", "marker"), looks[name[0]], strict=True))
    return lines


def _draw_pair(
    odds: Axes,
    kl: Axes,
    cell: Sequence[DoseEffect],
    lines: dict[Name, dict[str, Any]],
    top: float,
) -> None:
    """Refusal above, KL below, for one model, side and intervention."""
    kl.axhspan(DAMAGE_KL, top, **DAMAGE, zorder=0)
    start = finite(number(d.refusal_log_odds) - number(d.change) for d in cell)[:1]
    for name, look in lines.items():
        mine = [d for d in cell if (d.direction, d.control_of, d.layer) == name]
        if not mine:
            continue
        mine.sort(key=lambda d: d.dose)
        x, hollow = [d.dose for d in mine], [number(d.kl) > DAMAGE_KL for d in mine]
        ends: Any = {field: [getattr(d, field) for d in mine] for field in ("low", "high")}
        y = [d.refusal_log_odds for d in mine]
        # A dose of zero is the unmodified model.
        origin = tuple((0.0, odds_there) for odds_there in start)
        draw_curve(odds, Curve(x=x, y=y, **ends, hollow=hollow, through=origin, **look))
        kls = [d.kl for d in mine]
        draw_curve(kl, Curve(x=x, y=kls, hollow=hollow, through=((0.0, 0.0),), **look))
    for unmodified in start:
        odds.axhline(unmodified, color=INK, lw=0.7, ls=":", zorder=1)
    kl.set_yscale("symlog", linthresh=LEAST_KL, linscale=0.4)
    kl.set_ylim(0, top)
    kl.set_yticks([t for t in (0, 0.01, 0.1, 1, 10, 100) if t < top])
    kl.set_yticklabels([f"{t:g}" for t in kl.get_yticks()])
    kl.minorticks_off()
    if any(d.intervention == "add" for d in cell):
        for ax in (odds, kl):
            ax.axvline(0, color=MUTED, lw=0.6, zorder=1)


def _words(lines: Iterable[Name]) -> list[str]:
    """Each direction once, with the layers that it was added at."""
    layers: dict[tuple[str, str], list[str]] = {}
    for direction, control_of, layer in lines:
        layers.setdefault((direction, control_of), []).append(str(layer))
    return [
        f"{plain(direction)}, norm of {plain(control_of)}"
        if control_of
        else f"{plain(direction)}, layer {listing(sorted(found, key=int), 'or')}"
        for (direction, control_of), found in layers.items()
    ]


def _legend(lines: dict[Name, dict[str, Any]]) -> list[Any]:
    looks = {line[:2]: look for line, look in lines.items()}
    handles: list[Any] = [
        Line2D([], [], color=look["colour"], marker=look["marker"], markersize=3.6,
               ls=(0, look.get("dashes", ())), lw=look.get("width", 1.4), label=words)
        for words, look in zip(_words(lines), looks.values(), strict=True)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=INK, lw=0.7, ls=":", label="unmodified model"))
    handles.append(Patch(**DAMAGE, label=f"KL above {fixed(DAMAGE_KL, 0)} nat (hollow)"))
    return handles


def _caption(found: Sequence[DoseEffect]) -> str:
    level = listing(f"{fixed(100 * level, 0)} %" for level in sorted({d.level for d in found}))
    draws = in_order(d.n_draws for d in found if d.control_of)
    random = f" (means of {listing(map(str, draws))} draws)" if draws else ""
    return (
        "Mean refusal log-odds as a direction's raw difference is added to the residual stream at "
        "one layer in growing multiples, at all tokens, or as a growing fraction of its component "
        f"is cut out everywhere; bands are {level} intervals over requests "
        f"({n_text(d.n for d in found)}). Control: random directions of equal norm{random}. Below, "
        "KL(unmodified || modified) at the last prompt token of the same requests, linear up to "
        f"{LEAST_KL:g}. Hollow marks are in the hatched region, above {fixed(DAMAGE_KL, 0)} nat, "
        "where the output changed so much that the model may be broken. A model that refuses where "
        "it answered, or answers where it refused, has a large KL too: below the line is sound, "
        "above it is not settled. Look for: a line that rises one way and falls the other, in "
        "proportion to the dose while its KL is small, and clear of the random one. One that moves "
        "only among hollow marks, or both ways alike, carries no refusal."
    )
