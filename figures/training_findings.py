"""Sentences on training, each computed by rule: what the attack did, and what it was kept in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from figures.method import method_name, train_setting
from figures.rows import RunRows
from figures.sites import units_of
from figures.style import finite, in_order
from figures.training import is_attacked
from figures.wording import count_of, fixed, harm_judge, listing, share_range, span
from lpa_interp.records import HarmRate, TrainingStep

NEVER_BINDS, OFTEN_BINDS = 0.01, 0.5
"""Shares of units at the bound below and above which words change."""

LOSSES = (
    ("attack_toward", "toward the undesired answer"),
    ("attack_away", "away from the desired one"),
)


def attack_sentence(rows: RunRows) -> str:
    """What the attack achieved before and after the update: last step, and means over steps."""
    steps = sorted(rows.training, key=lambda step: step.step)
    if not steps:
        return "The run has no training log."
    states = {"_start": "without the attack", "": "under it"}
    states["_after"] = "under the same attack after the update"
    opening = ""
    if not is_attacked(steps):
        opening = "Nothing was done to the activations. "
        states = {"_start": "before the update", "_after": "after it"}
    losses = [
        f"{words} {listing(f'{_value(steps, field + s)} {when}' for s, when in states.items())}"
        for field, words in LOSSES
    ]
    return (
        f"{opening}Losses at step {steps[-1].step}, the last, in nats per token, with means over "
        f"{count_of(len(steps), 'step')} in brackets: {'; '.join(losses)}."
    )


def _value(steps: Sequence[TrainingStep], field: str) -> str:
    """The last step's value, and in brackets the mean over steps."""
    found = finite(getattr(step, field) for step in steps)
    return f"{fixed(getattr(steps[-1], field), 3)} [{fixed(mean(found or [math.nan]), 3)}]"


def epsilon_sentence(rows: RunRows) -> str:
    """Whether the constraint was binding, over steps and at the last step's sites."""
    if not rows.training:
        return "The run has no training log, so it is not known whether epsilon was binding."
    norms = finite(step.perturbation_norm for step in rows.training)
    if not rows.sites and norms and not any(norms):
        name = method_name(rows) or "not named"
        return f"The method ({name}) adds nothing that epsilon bounds, so it could not bind."
    shares = finite(step.epsilon_bound_fraction for step in rows.training)
    if not shares:
        return "The training log has no shares, so it is not known whether epsilon was binding."
    told = (
        f"the share of {units_of(rows.sites)} within 1 % of the bound, as a mean over sites, was "
        f"{100 * mean(shares):.1f} % on average over {count_of(len(shares), 'step')} (per step "
        f"{span([100 * s for s in shares], 1)} %), at a mean norm of {span(norms, 2)} activation "
        "units."
    )
    if max(shares) < NEVER_BINDS:
        return (
            f"Epsilon did not bind: {told} The constraint played no part; the attack was limited "
            f"by its step size and number of steps.{_subspace_words(rows)}"
        )
    often = "most" if mean(shares) > OFTEN_BINDS else "some"
    where = _site_words(rows) + _subspace_words(rows)
    return f"Epsilon was binding for {often} perturbations: {told}{where}"


def _site_words(rows: RunRows) -> str:
    """At which sites the constraint was binding at the last step."""
    if not rows.sites:
        return ""
    last = max(site.step for site in rows.sites)
    shares = {s.hook_name: s.bound_fraction for s in rows.sites if s.step == last}
    known = {name: share for name, share in shares.items() if finite([share])}
    often = [name for name, share in known.items() if share > OFTEN_BINDS]
    never = [name for name, share in known.items() if share < NEVER_BINDS]
    total = count_of(len(known), "site")
    return (
        f" At step {last} it was binding for more than half at {len(often)} of {total}"
        f"{_named(often, known)} and for none at {len(never)}{_named(never, known)}."
    )


def _named(some: list[str], all_sites: dict[str, float]) -> str:
    """Names of sites, where naming them tells more than their number."""
    return f" ({listing(some)})" if 0 < len(some) < len(all_sites) and len(some) <= 6 else ""


def _subspace_words(rows: RunRows) -> str:
    if train_setting(rows, "subspace") is None:
        return ""
    side = "outside" if train_setting(rows, "subspace_side") == "outside" else "inside"
    names = train_setting(rows, "subspace_names") or ["all"]
    return f" The attack was kept {side} the span of directions (names: {listing(names)})."


def harm_sentences(rows: RunRows) -> list[str]:
    """How often completions in training were judged harmful, or why that is not known.

    One sentence per judge, and per completions with and without the attack.
    """
    if rows.harm_rates:
        return [_harm_words(rate, rows) for rate in rows.harm_rates]
    if rows.watched:
        n = count_of(len(rows.watched), "completion")
        return [f"{n} were watched, but the run holds no harm rates, so none is told."]
    if rows.training:
        return ["No completion was watched, so it is not known whether training gave harmful text."]
    return []


def _harm_words(rate: HarmRate, rows: RunRows) -> str:
    who = "the attacked model" if rate.attacked else "the model, without an attack,"
    judge, warning = harm_judge(rate.judge)
    level = f"{100 * rate.level:.0f} % {rate.method} interval"
    n_all = rate.n + rate.n_undecided
    n, ending = rate.n, f"were judged harmful by {judge}"
    interval = f"{share_range(rate.low, rate.high)} %, {level}"
    if rate.n == 0:
        n, ending, interval = n_all, f"could be judged by {judge}", "no rate"
    details = [interval, *_watched_words(rate, rows), f"{rate.n_undecided} undecided, left out"]
    return (
        f"Harmful text in training: {rate.n_harmful} of {count_of(n, 'completion')} that {who} "
        f"gave to the statements {ending} ({'; '.join(details)}). {warning}"
        f"{_dependence(rate, n_all)}"
    )


def _watched_words(rate: HarmRate, rows: RunRows) -> list[str]:
    """Where the completions come from: statements, steps and length."""
    words = [f"n = {count_of(rate.n_statements, 'statement')}"]
    key = (rate.judge, rate.attacked)
    watched = [row for row in rows.watched if (row.judge, row.attacked) == key]
    if watched:
        n_steps = len(in_order(row.step for row in watched))
        words.append(f"{count_of(n_steps, 'step')} watched")
        words.append(f"{span((row.n_tokens for row in watched), 0)} tokens each")
    return words


def _dependence(rate: HarmRate, n_all: int) -> str:
    if n_all <= rate.n_statements:
        return ""
    return (
        " The interval takes completions as independent, but statements were watched more than "
        "once, so it is too narrow."
    )
