"""Rows of ``behaviour/`` that judging adds to those of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from lpa_interp.records.labels import ModelLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One answer of a judge that costs time or money, a row of ``behaviour/judgements.jsonl``.

    Rows are appended as they come, so that nothing is lost where judging stops; a later row for
    the same completion and judge replaces an earlier one. ``sha256`` is that of the completion
    judged and ``settings`` hashes what the judge was given beside it: a row counts for no other.

    ``value`` is as in `Verdict`, and ``reason`` says why it is None. ``failed`` marks an answer
    that never came: it is asked for again. ``parts`` holds what the value was made of.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    prompt_id: str
    harmful: bool
    judge: str
    measure: str
    value: float | None
    reason: str
    failed: bool
    sha256: str
    settings: str
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two judges of the same completions, a row of ``behaviour/agreement.jsonl``.

    ``kappa`` is Cohen's, with its interval; ``agreement`` is the raw share. ``n`` counts the
    completions that both decided, ``n_prompts`` the prompts behind them; those undecided by a
    judge are counted apart, and ``n_unmatched`` are verdicts of one judge alone. ``kappa`` is
    None where both judges gave every completion the same one verdict. ``benchmark`` and
    ``attack`` are ``all`` where verdicts are taken together.
    """

    first: str
    second: str
    benchmark: str
    attack: str
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None
    n: int
    n_prompts: int
    n_undecided_first: int
    n_undecided_second: int
    n_unmatched: int
    first_share: float | None
    second_share: float | None
    level: float = 0.95
    method: str
    seed: int
