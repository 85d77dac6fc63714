"""Rows of ``behaviour/``."""

from __future__ import annotations

from dataclasses import dataclass

from lpa_interp.records.labels import ModelLabel, ScoreSide


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A greedy completion, a row of ``behaviour/completions.jsonl``.

    ``text`` is redacted (its first 40 characters) on disk unless the user asks for all of it;
    ``sha256`` is of the whole text.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    prompt_id: str
    harmful: bool
    text: str
    redacted: bool
    sha256: str
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one judge says of one prompt, a row of ``behaviour/verdicts.jsonl``.

    ``value`` is 1 or 0 for a yes/no judge, nats for a log-odds judge, None where the judge
    could not decide. It is never a silent zero.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    prompt_id: str
    harmful: bool
    judge: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measure with its interval, a row of ``behaviour/scores.jsonl``.

    ``measure`` is one of ``refusal_rate`` (share, keyword judge), ``refusal_log_odds``
    (nats), ``self_report_error`` (share: would answer on the harmful side, would not on the
    harmless side), ``auroc`` (harmful against harmless refusal log-odds) and
    ``perplexity``. ``low`` and ``high`` bound the interval of the given ``level``.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    measure: str
    judge: str
    side: ScoreSide
    value: float
    low: float
    high: float
    n: int
    n_undecided: int = 0
    level: float = 0.95
    method: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two models on the same prompts, a row of ``behaviour/contrasts.jsonl``.

    ``difference`` is second minus first, in the measure's unit.
    """

    first: ModelLabel
    second: ModelLabel
    benchmark: str
    attack: str
    measure: str
    side: ScoreSide
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    method: str
    seed: int
