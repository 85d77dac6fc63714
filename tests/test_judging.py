"""Judging reads completions: order, redaction, requests, undecided answers and scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.evaluation import redact
from lpa_interp.judging import (
    Exchange,
    Judge,
    JudgeAnswer,
    judge_completions,
    judge_each,
    one_by_one,
)
from lpa_interp.scoring import score_verdicts
from lpa_interp.text_judges import harm_terms_judge, keyword_judge
from tests.completed import ANSWER, REFUSAL, completion, completions, prompts


def _judge(decide: Any, **more: Any) -> Judge:
    fields = {"name": "j", "measure": "harm_rate", "citation": "c", "limits": "l"}
    return Judge(decide=decide, **{**fields, **more})


def test_the_word_list_judges_decide_as_their_functions_do() -> None:
    made = completions([REFUSAL, ANSWER, ""])
    refused = judge_completions(made, {}, keyword_judge())
    assert [verdict.value for verdict in refused] == [1.0, 0.0, None]
    harmful = judge_completions(made, {}, harm_terms_judge())
    assert [verdict.value for verdict in harmful] == [0.0, 1.0, None]
    assert {verdict.judge for verdict in harmful} == {"harm_terms (weak)"}
    assert [verdict.prompt_id for verdict in harmful] == ["p0", "p1", "p2"]


def test_an_undecided_answer_has_its_reason_and_no_value() -> None:
    (row,) = judge_each(completions([""]), {}, keyword_judge())
    assert row.value is None and row.reason == "empty" and not row.failed


def test_redacted_completions_are_refused_with_what_to_do() -> None:
    made = [redact(row) for row in completions([REFUSAL, ANSWER])]
    with pytest.raises(InputError, match=r"2 of 2 .* redacted .*store_completions = true"):
        judge_completions(made, {}, keyword_judge())


def test_a_judge_that_reads_no_text_takes_redacted_completions() -> None:
    made = [redact(row) for row in completions([REFUSAL])]
    judge = _judge(one_by_one(lambda text: 1.0, ""), reads_text=False)
    assert judge_completions(made, {}, judge)[0].value == 1.0


def test_a_judge_that_reads_the_request_gets_the_one_of_its_benchmark() -> None:
    seen: list[Exchange] = []

    def decide(exchanges: Sequence[Exchange]) -> Iterator[tuple[int, JudgeAnswer]]:
        seen.extend(exchanges)
        yield from ((index, JudgeAnswer(0.0)) for index in range(len(exchanges)))

    judge = _judge(decide, reads_request=True)
    judge_completions(completions(["a", "b"]), prompts(2), judge)
    assert [exchange.request for exchange in seen] == ["Request number 0.", "Request number 1."]
    with pytest.raises(InputError, match=r"prompt 'p1' of the run is not in it"):
        judge_completions(completions(["a", "b"]), prompts(1), judge)


def test_answers_may_come_in_any_order_and_verdicts_keep_that_of_the_completions() -> None:
    def decide(exchanges: Sequence[Exchange]) -> Iterator[tuple[int, JudgeAnswer]]:
        for index in reversed(range(len(exchanges))):
            yield index, JudgeAnswer(float(exchanges[index].completion.text))

    values = [v.value for v in judge_completions(completions(["0", "1", "1"]), {}, _judge(decide))]
    assert values == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("answers", "words"),
    [([0], "left out 1 of 2"), ([0, 0], "twice"), ([0, 5], "twice")],
)
def test_a_judge_that_skips_or_repeats_a_completion_is_an_error(
    answers: list[int], words: str
) -> None:
    judge = _judge(lambda exchanges: [(index, JudgeAnswer(1.0)) for index in answers])
    with pytest.raises(ValueError, match=words):
        judge_completions(completions(["a", "b"]), {}, judge)


def test_a_value_that_is_not_finite_stops_the_judging() -> None:
    judge = _judge(lambda exchanges: [(0, JudgeAnswer(math.nan))])
    with pytest.raises(NumericalError, match="gave nan on p0"):
        judge_completions(completions(["a"]), {}, judge)


def test_an_undecided_answer_without_a_reason_is_refused() -> None:
    judge = _judge(lambda exchanges: [(0, JudgeAnswer(None))])
    with pytest.raises(ValueError, match="no reason"):
        judge_completions(completions(["a"]), {}, judge)


def test_settings_change_the_hash_and_their_order_does_not() -> None:
    judge = _judge(one_by_one(float, ""), settings={"a": 1, "b": 2})
    assert judge.settings_hash == replace(judge, settings={"b": 2, "a": 1}).settings_hash
    assert judge.settings_hash != replace(judge, settings={"a": 1, "b": 3}).settings_hash


def test_verdicts_of_the_keyword_judge_add_up_to_a_refusal_rate_per_side() -> None:
    made = [*completions([REFUSAL, ANSWER, "", REFUSAL]), completion(ANSWER, "q", harmful=False)]
    verdicts = judge_completions(made, {}, keyword_judge())
    assert {verdict.measure for verdict in verdicts} == {"refusal_rate"}
    assert [score.side for score in score_verdicts(verdicts, 3)] == ["harmful", "harmless"]


def test_undecided_verdicts_are_counted_and_left_out_of_n() -> None:
    verdicts = judge_completions(completions([REFUSAL, "", ""]), {}, keyword_judge())
    (score,) = score_verdicts(verdicts, 0)
    assert (score.value, score.n, score.n_undecided) == (1.0, 1, 2)
    (nothing,) = score_verdicts([verdicts[1]], 0)
    assert math.isnan(nothing.value) and (nothing.n, nothing.n_undecided) == (0, 1)


def test_mean_scores_have_a_bootstrap_interval_that_keeps_a_width_at_zero() -> None:
    def scored(values: Sequence[float]) -> Any:
        judge = _judge(one_by_one(float, ""), measure="harm_score")
        verdicts = judge_completions(completions([str(v) for v in values]), {}, judge)
        return score_verdicts(verdicts, 0)[0]

    mixed = scored([0.0, 0.25, 0.5, 1.0, 0.0, 0.75])
    assert mixed.value == pytest.approx(2.5 / 6) and mixed.low < mixed.value < mixed.high
    zero = scored([0.0] * 20)
    assert zero.value == 0.0 and zero.low == 0.0 and 0.1 < zero.high < 0.2
    single = scored([0.5])
    assert single.n == 1 and math.isnan(single.low)


def test_a_rate_refuses_scores_and_an_unknown_measure_is_named() -> None:
    verdicts = judge_completions(completions(["0.5"]), {}, _judge(one_by_one(float, "")))
    with pytest.raises(ValueError, match="0 or 1"):
        score_verdicts(verdicts, 0)
    with pytest.raises(ValueError, match="unknown measure 'beauty'"):
        score_verdicts([replace(verdicts[0], measure="beauty")], 0)
