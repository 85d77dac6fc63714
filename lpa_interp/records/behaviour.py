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
class AttackCost:
    """What an attack on a model was allowed and took, a row of ``behaviour/attacks.jsonl``.

    ``queries`` (answers that the attacker saw) and ``steps`` (optimisation steps) are the budget
    of one prompt, or of all together where ``shared``; ``seconds`` what preparing the attack
    took for all ``n_prompts``, the judged answers themselves left out.
    """

    model: ModelLabel
    attack: str
    description: str
    citation: str
    queries: int
    steps: int
    shared: bool
    n_prompts: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one judge says of one prompt, a row of ``behaviour/verdicts.jsonl``.

    ``value`` is 1 or 0 for a yes/no judge, nats for a log-odds judge, None where the judge
    could not decide. It is never a silent zero. ``measure`` is what the judge's verdicts add up
    to, as in `Score`.
    """

    model: ModelLabel
    benchmark: str
    attack: str
    prompt_id: str
    harmful: bool
    judge: str
    measure: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A measure with its interval, a row of ``behaviour/scores.jsonl``.

    ``measure`` is a share: ``refusal_rate``, ``harm_rate``, ``parroting_rate`` (gives back a
    training answer), ``accuracy`` of a utility task, ``self_report_error`` (would answer on the
    harmful side, would not on the harmless side); a mean in nats: ``refusal_log_odds`` (first
    token), ``refusal_likelihood_ratio`` (refusing over affirmative answers), ``kl_to_base``; or
    ``harm_score`` (0 to 1), ``perplexity``, ``auroc`` (harmful against harmless values of the
    judge). ``low`` and ``high`` bound the interval of the given ``level``.
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
    judge: str
    measure: str
    side: ScoreSide
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    method: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOverlap:
    """What two sets of texts share by one measure, a row of ``behaviour/overlap.jsonl``.

    ``measure`` is ``exact``, ``ngram_8``, ``ngram_13``, ``tfidf_cosine`` or
    ``embedding_cosine``. Each text of ``second`` has a value: 1 where ``first`` holds the same
    words, else 0; the share of its runs of 8 or 13 words that ``first`` holds; the cosine with
    the nearest text of ``first``. ``mean`` and ``maximum`` are over the ``n_measured`` texts
    that have a value (texts of fewer than 8 or 13 words have none), None where there are none.
    ``n_matched`` counts those above zero and ``n_matched_in_first`` the texts of ``first`` that
    they match, ``n_contained`` those of 0.7 and more; None where the measure has no such count.
    ``mean_of_all_pairs`` is the mean cosine of every text with every other, ``n_cut`` the texts
    of both sets that the encoder did not read to the end. The sets are counted whole, not
    sampled: there is no interval.
    """

    first: str
    second: str
    measure: str
    method: str
    n_first: int
    n_second: int
    n_measured: int
    mean: float | None
    maximum: float | None
    n_matched: int | None = None
    n_matched_in_first: int | None = None
    n_contained: int | None = None
    mean_of_all_pairs: float | None = None
    n_cut: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two texts that are near by one measure, a row of ``behaviour/near_pairs.jsonl``.

    Texts are named by their ids alone. ``value`` is the second text's, as in `SetOverlap`;
    ``rank`` counts from 1, nearest first.
    """

    first: str
    second: str
    measure: str
    rank: int
    first_id: str
    second_id: str
    value: float
