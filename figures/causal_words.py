"""The words about the causal share: what the share is of, and where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from figures.style import in_order, number
from figures.wording import (
    MINUS,
    change_range,
    change_text,
    fixed,
    listing,
    n_text,
    sentence_case,
    span,
)
from lpa_interp.records import MediatedShare

ODDS = "refusal_log_odds"


def above_controls(share: MediatedShare) -> bool:
    """Whether the share is clear of both controls, and the ablation of damage."""
    ends = number(share.over_random_low), number(share.over_matched_low)
    return not share.damaged and all(end > 0 for end in ends)


def head(share: MediatedShare) -> str:
    """The share in per cent: starred above both controls, in brackets where damaged."""
    if share.share is None:
        return "no share"
    told = f"{fixed(100 * share.share, 0)} %"
    return f"({told})" if share.damaged else told + (" *" if above_controls(share) else "")


def gain_text(share: MediatedShare) -> str:
    """The gain over its interval, on two lines."""
    told = change_text(ODDS, share.gain)
    return f"{told}\n({change_range(ODDS, share.gain_low, share.gain_high)})"


def no_share(share: MediatedShare) -> str:
    """Why there is no share, in words."""
    reason = share.reason.replace("-", MINUS) or "the rows give no reason"
    return f"no share of the gain exists on {share.side} requests ({reason})"


def caption(found: Sequence[MediatedShare]) -> str:
    """The caption of the causal share, from its rows."""
    level = listing(f"{fixed(100 * level, 0)} %" for level in sorted({s.level for s in found}))
    draws = in_order(s.n_draws for s in found if s.control_of)
    controls = f" (means of {listing(map(str, draws))} draws)" if draws else ""
    removed = span((100 * number(s.removed_norm_share) for s in found if not s.control_of), 1)
    return (
        f"{_gains(found)} The bar is that gain; beside it, on the same scale, is the share of it "
        "that the trained model loses when a subspace of k dimensions is cut out of its residual "
        f"stream at every layer and token. Bars are {level} intervals over requests "
        f"({n_text(s.n for s in found)}) from one paired bootstrap. 100 % is the whole gain; more "
        "means that refusal from before training goes too, and the thin mark takes that off: it "
        "is net of what the base loses under the same ablation. Controls: random subspaces of the "
        f"same dimension, and random ones that also remove the same share of the residual "
        f"stream's squared norm ({removed} %){controls}. A star marks a share whose paired "
        f"differences from both controls are above 0.{_damage(found)}{_undefined(found)} Look "
        "for: starred trait shares, and how far below the whole gain they stay. A trait share no "
        "higher than its controls means that the trait directions are correlates of the gain, "
        "not its carriers."
    )


def _gains(found: Sequence[MediatedShare]) -> str:
    told = []
    for first, second, side in in_order((s.first, s.second, s.side) for s in found):
        row = next(s for s in found if (s.first, s.second, s.side) == (first, second, side))
        gain = gain_text(row).replace("\n", " ")
        told.append(f"{gain} on {side} requests from {first} to {second}")
    return f"Mean refusal log-odds changed by {listing(told)}."


def _damage(found: Sequence[MediatedShare]) -> str:
    damaged = [s for s in found if s.damaged]
    if not damaged:
        return " No ablation was marked as damage."
    which = listing(in_order(_name(s) for s in damaged))
    return (
        " Hollow marks and shares in brackets: the ablation broke the model on harmless requests "
        f"too ({which}, in nats), so the share says nothing of refusal."
    )


def _name(share: MediatedShare) -> str:
    control = f"{share.ablated.replace('_', ' ')} for " if share.control_of else ""
    place = f"{control}{share.control_of or share.ablated}, k = {share.k}"
    return f"{place}, KL {fixed(share.kl_harmless, 1)}"


def _undefined(found: Sequence[MediatedShare]) -> str:
    told = in_order(no_share(s) for s in found if s.share is None)
    return "".join(f" {sentence_case(words)}." for words in told)
