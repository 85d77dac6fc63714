"""Sentences on probes, angles, ablations and features, each computed by rule."""

from __future__ import annotations

from figures.rows import RunRows
from figures.style import finite, in_order
from figures.wording import ALPHA, change_range, change_text, count_of, fixed, n_text, p_text, span
from lpa_interp.records import AblationEffect, ProbeScore

_NOT_BEYOND = "not detectably more than chance gives"


DAMAGE_KL = 1.0
"""Nats of KL(unmodified || ablated) from which a model counts as broken: ten times the largest
KL that the search for a refusal direction accepts."""


def probe_sentences(rows: RunRows) -> list[str]:
    """Per target, method and model: the range over layers beside that of the control."""
    lines = []
    for key in in_order((s.target, s.method, s.model, s.position) for s in rows.probe_scores):
        cell = [s for s in rows.probe_scores if _key(s) == key]
        fitted = [s for s in cell if s.control == "none"]
        control = [s for s in cell if s.control == "shuffled"]
        best = max((s for s in fitted if s.value is not None), key=lambda s: s.value, default=None)
        if best is None:
            continue
        line = (
            f"{key[0]}, {key[1].replace('_', ' ')}, {key[2]}: highest at layer {best.layer} with "
            f"{fixed(best.value, 3)} (95 % interval {fixed(best.low, 3)} to {fixed(best.high, 3)}, "
            f"n = {best.n}), the best of {count_of(len(fitted), 'layer')} and so biased upwards"
        )
        lines.append(f"{line}; {_control_words(control)}")
    return lines


def _key(score: ProbeScore) -> tuple[str, str, str, int]:
    return score.target, score.method, score.model, score.position


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
    """Per pair of directions and model: cosines and how many layers leave the null."""
    lines = []
    for key in in_order((a.first, a.second, a.model, a.null) for a in rows.angles):
        cell = [a for a in rows.angles if (a.first, a.second, a.model, a.null) == key]
        hits = [a for a in cell if a.p_adjusted is not None and a.p_adjusted < ALPHA]
        told = f"cosines {span((a.cosine for a in cell), 2, sign=True)} over {len(cell)} layers"
        if hits:
            outside = (
                f"{len(hits)} of them differ from the null ({key[3]}, adjusted p < {ALPHA}), "
                f"with cosines {span((a.cosine for a in hits), 2, sign=True)}"
            )
        else:
            outside = f"none differs detectably from the null ({key[3]}, adjusted p < {ALPHA})"
        lines.append(f"{key[0]} and {key[1]}, {key[2]}: {told}; {outside}.")
    return lines


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
