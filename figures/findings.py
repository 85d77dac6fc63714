"""Sentences on probes, angles, ablations and features, each computed by rule."""

from __future__ import annotations

from collections.abc import Sequence

from figures.curves import hook_kind
from figures.probe_choice import NESTED, SELECTIVITY, swept_measure
from figures.rows import RunRows
from figures.style import finite, in_order, number
from figures.wording import (
    ALPHA,
    change_range,
    change_text,
    count_of,
    fixed,
    listing,
    n_text,
    p_text,
    span,
)
from lpa_interp.records import AblationEffect, DirectionAngle, ProbeScore

_NOT_BEYOND = "not detectably more than chance gives"


DAMAGE_KL = 1.0
"""Nats of KL(unmodified || ablated) from which a model counts as broken: ten times the largest
KL that the search for a refusal direction accepts."""


def probe_sentences(rows: RunRows) -> list[str]:
    """Per target, method, model and kind of place: the range over layers beside the control's."""
    lines = []
    measure = swept_measure(rows.probe_scores)
    swept = [s for s in rows.probe_scores if s.measure == measure]
    for key in in_order(_key(s) for s in swept):
        cell = [s for s in swept if _key(s) == key]
        fitted = [s for s in cell if s.control == "none"]
        control = [s for s in cell if s.control == "shuffled"]
        best = max((s for s in fitted if s.value is not None), key=lambda s: s.value, default=None)
        if best is None:
            continue
        value = f"{fixed(best.value, 3)} ({_ends(best)}, n = {best.n})"
        told = f"highest at layer {best.layer} with {value}, the best of "
        told += f"{count_of(len(fitted), 'layer')} and so biased upwards"
        if len(fitted) == 1:
            told = f"at layer {best.layer} {value}"
        line = f"{key[0]}, {key[1].replace('_', ' ')}, {key[2]}: {told}"
        extra = _beside(best, rows.probe_scores)
        lines.append(f"{line}; {_control_words(control)}{extra}")
    return lines


def _key(score: ProbeScore) -> tuple[str, str, str, int, str]:
    return score.target, score.method, score.model, score.position, hook_kind(score.hook_name)


def _beside(best: ProbeScore, scores: Sequence[ProbeScore]) -> str:
    """Selectivity at the best layer, and the score with the layer chosen on inner folds."""
    told = ""
    for s in scores:
        there = _key(s) == _key(best) and s.layer == best.layer
        if there and s.measure == best.measure + SELECTIVITY:
            told += f" Selectivity there {fixed(s.value, 3, sign=True)} ({_ends(s)})."
        chosen = s.measure == best.measure + NESTED and s.control == "none"
        if chosen and _key(s)[:4] == _key(best)[:4]:
            told += (
                f" With the layer chosen on inner folds {fixed(s.value, 3)} "
                f"({_ends(s)}, {p_text(s.p_value)}), not biased by the choice."
            )
    return told


def _ends(score: ProbeScore) -> str:
    return f"95 % interval {fixed(score.low, 3)} to {fixed(score.high, 3)}"


def _control_words(control: list[ProbeScore]) -> str:
    values = finite(s.value for s in control)
    if not values:
        return "no shuffled-label control, so the score cannot be trusted."
    leaks = [s for s in control if s.low is not None and s.low > 0.5]
    words = f"shuffled labels give {span(values, 3)}"
    if not leaks:
        return f"{words}, at no layer with an interval above chance."
    return (
        f"{words}, with an interval above chance at {count_of(len(leaks), 'layer')}: "
        "more than a few of these mean that the procedure leaks."
    )


def angle_sentences(rows: RunRows) -> list[str]:
    """Per pair of directions and model: cosines and how many layers leave the nulls."""
    lines = []
    for key in in_order(_angle_key(a) for a in rows.angles):
        cell = [a for a in rows.angles if _angle_key(a) == key]
        layers = {a.layer: a.cosine for a in cell}
        told = f"cosines {span(layers.values(), 2, sign=True)} over {len(layers)} layers"
        first, second, model, frame, _ = key
        read = "" if frame == model else f" (read in {frame})"
        lines.append(f"{first} and {second}, {model}{read}: {told}; {_outside(cell)}.")
    return lines


def _angle_key(angle: DirectionAngle) -> tuple[str, str, str, str, str]:
    frame = angle.frame or angle.model
    return angle.first, angle.second, angle.model, frame, hook_kind(angle.hook_name)


def _outside(cell: Sequence[DirectionAngle]) -> str:
    """How many layers of a pair differ from each of its nulls, and from all of them."""
    nulls = in_order(a.null for a in cell)
    clear = {
        null: {a.layer for a in cell if a.null == null and number(a.p_adjusted) < ALPHA}
        for null in nulls
    }
    hits = set.intersection(*clear.values())
    beside = f"the null ({nulls[0]}, adjusted p < {ALPHA})"
    each = ""
    if len(nulls) > 1:
        beside = f"every null (adjusted p < {ALPHA})"
        each = f"; {listing(f'{len(clear[null])} from {null}' for null in nulls)}"
    if not hits:
        return f"none differs detectably from {beside}{each}"
    cosines = span((a.cosine for a in cell if a.layer in hits), 2, sign=True)
    return f"{len(hits)} of them differ from {beside}, with cosines {cosines}{each}"


def ablation_sentences(rows: RunRows) -> list[str]:
    """Per model and side: the effect of each direction against the random control."""
    lines = []
    for model, side in in_order((a.model, a.side) for a in rows.ablations):
        cell = [a for a in rows.ablations if (a.model, a.side) == (model, side)]
        control = next((a for a in cell if a.ablated == "random"), None)
        lines += [
            f"{model}, {side} requests, {_name(a)}: {_effect_words(a, control)}"
            for a in cell
            if a.ablated not in ("none", "random")
        ]
    return lines


def _effect_words(effect: AblationEffect, control: AblationEffect | None) -> str:
    low, high = effect.change_low, effect.change_high
    told = f"{_change(effect)}, n = {effect.n}, KL {fixed(effect.kl, 3)}"
    if low is None or high is None:
        return f"{told}; no interval, so no claim."
    if low <= 0 <= high:
        return f"{told}: no detectable change (interval includes 0)."
    moved = "raised" if low > 0 else "lowered"
    if control is None or control.change_low is None or control.change_high is None:
        return f"{told}: {moved} refusal, but there is no random control to compare with."
    beside = f"the random control gives {_change(control)}"
    clear = low > control.change_high or high < control.change_low
    claim = f"{moved} refusal, {'clear' if clear else 'but not clear'} of the control"
    return f"{told}: {claim}; {beside}.{_damage(effect)}"


def _name(effect: AblationEffect) -> str:
    return f"{effect.ablated.replace('_', ' ')} direction"


def _damage(effect: AblationEffect) -> str:
    if effect.kl is None or effect.kl < DAMAGE_KL:
        return ""
    return " At this KL the model's output changed altogether: damage, not evidence of mediation."


def _change(effect: AblationEffect) -> str:
    measure = "refusal_log_odds"
    interval = change_range(measure, effect.change_low, effect.change_high)
    return f"{change_text(measure, effect.change)} (95 % interval {interval})"


def sae_sentences(rows: RunRows) -> list[str]:
    """Quality per model, then overlap of top features against expectation."""
    lines = []
    for q in rows.qualities:
        recovered = "not available"
        if None not in (q.ce_zero, q.ce_sae, q.ce_clean) and q.ce_zero != q.ce_clean:
            share = (q.ce_zero - q.ce_sae) / (q.ce_zero - q.ce_clean)
            recovered = f"{fixed(100 * share, 1)} %"
        lines.append(
            f"Autoencoder read on {q.model} at {q.hook_name}: variance explained "
            f"{fixed(q.variance_explained)}, L0 {fixed(q.l0, 1)}, dead features "
            f"{fixed(None if q.dead_fraction is None else 100 * q.dead_fraction, 1)} %, loss "
            f"recovered {recovered} (n = {q.n_tokens} tokens)."
        )
    for contrast, model in in_order((s.contrast, s.model) for s in rows.shifts):
        cell = [s for s in rows.shifts if (s.contrast, s.model) == (contrast, model)]
        hits = [s for s in cell if s.p_adjusted is not None and s.p_adjusted < ALPHA]
        sizes = f"{n_text(s.n_first for s in cell)} against {n_text(s.n_second for s in cell)}"
        lines.append(
            f"Contrast {contrast}, {model}: {len(hits)} of the {len(cell)} listed features differ "
            f"(adjusted p < {ALPHA}; {sizes} texts)."
        )
    for o in rows.overlaps:
        beyond = o.p_value is not None and o.p_value < ALPHA and o.shared > (o.expected or 0)
        lines.append(
            f"{o.first} and {o.second}: {o.shared} of the top {o.top_k} features shared, "
            f"{fixed(o.expected)} expected among {o.n_active} active features "
            f"({p_text(o.p_value)}): {'more than chance gives' if beyond else _NOT_BEYOND}."
        )
    return lines
