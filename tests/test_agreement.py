"""Agreement of two judges against worked examples, and its interval by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from lpa_interp import agreement as module
from lpa_interp.agreement import agreement
from lpa_interp.records import ModelLabel, Verdict


def verdict(judge: str, prompt: str, value: float | None, model: ModelLabel = "base") -> Verdict:
    return Verdict(
        model=model,
        benchmark="b",
        attack="direct",
        prompt_id=prompt,
        harmful=True,
        judge=judge,
        measure="harm_rate",
        value=value,
    )


def judged(judge: str, values: list[float | None]) -> list[Verdict]:
    return [verdict(judge, f"p{index}", value) for index, value in enumerate(values)]


def table(both: int, first: int, second: int, neither: int) -> tuple[list[Verdict], list[Verdict]]:
    pairs = [(1.0, 1.0)] * both + [(1.0, 0.0)] * first + [(0.0, 1.0)] * second
    pairs += [(0.0, 0.0)] * neither
    return judged("A", [a for a, _ in pairs]), judged("B", [b for _, b in pairs])


def test_kappa_of_the_grant_proposals() -> None:
    # The worked example of textbooks: 20 yes twice, 15 no twice, 5 and 10 apart; p0 .7, pe .5.
    found = agreement(*table(20, 5, 10, 15))
    assert found.kappa == pytest.approx(0.4) and found.agreement == pytest.approx(0.7)
    assert (found.n, found.n_prompts, found.n_undecided_first, found.n_unmatched) == (50, 50, 0, 0)
    assert (found.first_share, found.second_share) == (0.5, 0.6)


def test_the_interval_follows_the_published_standard_error() -> None:
    # Bonett's statpsych, ci.kappa(.05, 31, 12, 4, 58): kappa 0.6757, standard error 0.07345.
    found = agreement(*table(58, 4, 12, 31))
    assert found.kappa == pytest.approx(0.6756757, abs=1e-6)
    reach = 1.959964 * 0.07344761 / (1 - 0.6756757**2)
    expected = np.tanh(np.arctanh(0.6756757) + np.array([-reach, reach]))
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-5)
    # The plain interval of the same source is 0.532 to 0.820.
    assert [found.low, found.high] == pytest.approx([0.532, 0.820], abs=0.03)


def test_undecided_and_unmatched_verdicts_are_counted_apart() -> None:
    first = judged("A", [1, 0, None, None, 1])
    second = judged("B", [1, 0, 1, None])
    found = agreement(first, second)
    assert (found.n, found.n_undecided_first, found.n_undecided_second) == (2, 2, 1)
    assert found.n_unmatched == 1


def test_a_threshold_turns_scores_into_verdicts() -> None:
    first, second = judged("A", [0.9, 0.1, 0.5, 0.2]), judged("B", [1, 0, 1, 0])
    assert agreement(first, second, threshold=0.5).kappa == pytest.approx(1.0)
    with pytest.raises(ValueError, match="A gives scores: a threshold"):
        agreement(first, second)


def test_full_agreement_keeps_a_width_that_shrinks_with_n() -> None:
    small, large = agreement(*table(5, 0, 0, 5)), agreement(*table(50, 0, 0, 50))
    assert small.kappa == large.kappa == 1.0
    assert [small.high, large.high] == pytest.approx([1.0, 1.0])
    assert small.low is not None and large.low is not None
    assert 0.2 < small.low < large.low < 1.0
    opposite = agreement(*table(0, 5, 5, 0))
    assert [opposite.kappa, opposite.low] == pytest.approx([-1.0, -1.0])
    assert opposite.high == pytest.approx(-small.low)


def test_kappa_is_undefined_where_both_gave_one_verdict_and_zero_where_one_did() -> None:
    same = agreement(*table(9, 0, 0, 0))
    assert same.kappa is None and same.low is None and same.agreement == 1.0
    assert "undefined" in same.method
    one = agreement(*table(6, 3, 0, 0))
    assert (one.kappa, one.low, one.high) == (0.0, None, None) and "one judge" in one.method
    nothing = agreement(judged("A", [None]), judged("B", [1]))
    assert nothing.n == 0 and nothing.kappa is None and nothing.agreement is None


def test_repeated_prompts_widen_the_interval() -> None:
    first, second = table(20, 5, 10, 15)
    models: tuple[ModelLabel, ...] = ("source", "base", "lpa")
    again = [
        [verdict(v.judge, v.prompt_id, v.value, model) for v in side for model in models]
        for side in (first, second)
    ]
    once, copies = agreement(first, second), agreement(again[0], again[1])
    assert copies.n == 150 and copies.n_prompts == 50 and "bootstrap over prompts" in copies.method
    assert copies.kappa == pytest.approx(once.kappa)
    # Copies hold no information: the interval is that of 50 prompts, not of 150.
    assert copies.low == pytest.approx(once.low, abs=0.05)
    assert copies.high == pytest.approx(once.high, abs=0.05)


def test_judges_without_anything_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match="no completion in common"):
        agreement([verdict("A", "x", 1)], [verdict("B", "y", 1)])
    with pytest.raises(ValueError, match="two verdicts on base, b, direct, x"):
        agreement([verdict("A", "x", 1)] * 2, [verdict("B", "x", 1)])
    with pytest.raises(ValueError, match="one judge on each side, not A, B"):
        agreement([verdict("A", "x", 1), verdict("B", "x", 1)], [verdict("B", "x", 1)])
    with pytest.raises(ValueError, match="not none"):
        agreement([], [verdict("B", "x", 1)])


@pytest.mark.parametrize(("share", "kappa"), [(0.3, 0.6), (0.5, 0.85), (0.3, 0.0)])
def test_the_interval_covers_a_planted_kappa(share: float, kappa: float) -> None:
    apart = (1 - kappa) * share * (1 - share)
    chances = [share - apart, apart, apart, 1 - share - apart]
    tables = np.random.default_rng(0).multinomial(80, chances, size=400)
    covered = 0
    for counts in tables:
        found = module._kappa_interval(np.repeat(np.eye(4), counts, axis=0), 0)
        assert found.value == pytest.approx(cohens_kappa(counts.reshape(2, 2)).kappa)
        assert found.low is not None and found.high is not None
        covered += found.low <= kappa <= found.high
    assert 0.91 <= covered / 400 <= 0.99


def test_the_bootstrap_covers_a_planted_kappa_of_repeated_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "N_RESAMPLES", 499)
    generator = np.random.default_rng(1)
    share, kappa, covered = 0.4, 0.5, 0
    apart = (1 - kappa) * share * (1 - share)
    chances = [share - apart, apart, apart, 1 - share - apart]
    for seed in range(200):
        # Each prompt's kind comes back with probability 0.7 in its two other answers.
        kinds = generator.choice(4, size=(3, 60), p=chances)
        kinds[1:] = np.where(generator.random((2, 60)) < 0.7, kinds[0], kinds[1:])
        found = module._kappa_interval(np.eye(4)[kinds].sum(0), seed)
        assert found.low is not None and found.high is not None
        covered += found.low <= kappa <= found.high
    assert 0.88 <= covered / 200 <= 0.99
