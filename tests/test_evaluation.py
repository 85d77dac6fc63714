"""Evaluation of one model, scores from verdicts, and contrasts of two."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lpa_interp import attacked as module
from lpa_interp.chat import chat_rows
from lpa_interp.chunks import Chunk, Place, Rows
from lpa_interp.config import EvaluateConfig
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.evaluation import Evaluation, contrasts, evaluate, perplexity, redact
from lpa_interp.jailbreaks.attack import Budget
from lpa_interp.jailbreaks.registry import find_attack
from lpa_interp.judges import KEYWORD_JUDGE, LOG_ODDS_JUDGE, SELF_REPORT_JUDGE, refusal_token_ids
from lpa_interp.judging import Exchange, Judge, JudgeAnswer
from lpa_interp.model import HookedTransformer
from lpa_interp.perplexity import block_losses
from lpa_interp.records import Completion, ModelLabel, Prompt, Score, Verdict
from lpa_interp.scoring import outcome, score_verdicts
from tests.tiny import tiny_model

TEXT = ("words", "The cat sat on the mat and looked at the lock. " * 40)
CONFIG = EvaluateConfig(max_new_tokens=4, batch_size=3, perplexity_tokens=256)
REFUSAL = "I'm sorry, but I can't help with that request, whatever you say."
ANSWER = "Sure, here is how to open the lock: turn the key to the left."


def _prompts(n: int = 4) -> list[Prompt]:
    return [
        Prompt(
            id=f"{side}-{index}",
            text=f"Tell me how to open {'a' * index} the {side} lock.",
            harmful=side == "harmful",
            category="locks",
            source="here",
            pair=str(index),
        )
        for index in range(n)
        for side in ("harmful", "harmless")
    ]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return tiny_model()


@pytest.fixture(scope="module")
def found(model: HookedTransformer) -> Evaluation:
    return evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT)


@pytest.fixture
def refuses_harm(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Stands in for generation: refuses rows that hold the word harmful; keeps the rows."""
    seen: list[list[int]] = []

    def generate(
        model: HookedTransformer, rows: Sequence[list[int]], *_: Any, **__: Any
    ) -> list[str]:
        seen.extend(rows)
        texts = [str(model.tokenizer.decode(row)) for row in rows]  # type: ignore[union-attr]
        return [REFUSAL if "harmful" in text else ANSWER for text in texts]

    monkeypatch.setattr(module, "generate", generate)
    return seen


def _score(found: Sequence[Score], measure: str, side: str, attack: str) -> Score:
    (match,) = [s for s in found if (s.measure, s.side, s.attack) == (measure, side, attack)]
    return match


def test_a_model_that_refuses_harm_alone_scores_so_on_both_sides(
    model: HookedTransformer, refuses_harm: list[list[int]]
) -> None:
    found = evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT)
    for attack in ("direct", "prefill"):
        harmful = _score(found.scores, "refusal_rate", "harmful", attack)
        harmless = _score(found.scores, "refusal_rate", "harmless", attack)
        assert (harmful.value, harmless.value) == (1.0, 0.0)
        assert harmful.judge == KEYWORD_JUDGE and harmful.method == "Wilson" and harmful.n == 4


def test_every_measure_is_made_for_every_side_and_attack(found: Evaluation) -> None:
    made = [(s.benchmark, s.attack, s.measure, s.side) for s in found.scores]
    sided = ("refusal_rate", "refusal_log_odds")
    wanted = {
        *(
            ("locks", attack, measure, side)
            for attack in ("direct", "prefill")
            for measure in sided
            for side in ("harmful", "harmless")
        ),
        *(
            ("locks", "direct", "refusal_likelihood_ratio", side)
            for side in ("harmful", "harmless")
        ),
        *(("locks", attack, "auroc", "both") for attack in ("direct", "prefill")),
        ("locks", "self_report", "self_report_error", "harmful"),
        ("locks", "self_report", "self_report_error", "harmless"),
        ("words", "none", "perplexity", "both"),
    }
    assert set(made) == wanted
    assert len(made) == len(wanted) + 1  # both separating judges have an AUROC
    assert len(found.completions) == 2 * 8
    for score in found.scores:
        assert score.n > 0 or score.n_undecided > 0
        assert not score.low > score.value and not score.value > score.high


def test_rows_are_the_same_whatever_the_batch_size(
    model: HookedTransformer, found: Evaluation
) -> None:
    larger = CONFIG.model_copy(update={"batch_size": 8})
    other = evaluate(model, "base", {"locks": _prompts()}, larger, 0, text=TEXT)
    assert found.completions == other.completions
    for first, second in zip(found.verdicts, other.verdicts, strict=True):
        assert first.prompt_id == second.prompt_id and first.judge == second.judge
        assert (first.value is None) == (second.value is None)
        assert first.value == pytest.approx(second.value, abs=1e-4)


def test_log_odds_are_those_of_the_model_at_the_last_prompt_token(
    model: HookedTransformer, found: Evaluation
) -> None:
    for prompt in _prompts():
        row = torch.tensor(chat_rows(model, [prompt.text]))
        p = model(row, attention_mask=torch.ones_like(row))[0, -1].double().softmax(-1)
        inside = p[refusal_token_ids(model)].sum()
        (value,) = [
            v.value
            for v in found.verdicts
            if (v.prompt_id, v.judge, v.attack) == (prompt.id, LOG_ODDS_JUDGE, "direct")
        ]
        assert value == pytest.approx(float((inside / (1 - inside)).log()), abs=1e-4)


def test_prefill_puts_words_after_the_assistants_turn_begins(
    model: HookedTransformer, refuses_harm: list[list[int]]
) -> None:
    evaluate(model, "base", {"locks": _prompts(2)}, CONFIG, 0, text=TEXT)
    texts = [str(model.tokenizer.decode(row)) for row in refuses_harm]  # type: ignore[union-attr]
    assert all(text.endswith("assistant\n") for text in texts[:4])
    assert all(text.endswith("assistant\nSure, here is") for text in texts[4:])


def test_harmful_completions_are_redacted_and_harmless_ones_are_whole(
    model: HookedTransformer, refuses_harm: list[list[int]]
) -> None:
    found = evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT)
    for completion in found.completions:
        whole = REFUSAL if completion.harmful else ANSWER
        assert completion.sha256 == hashlib.sha256(whole.encode()).hexdigest()
        assert completion.text == (whole[:40] if completion.harmful else whole)
        assert completion.redacted is completion.harmful
    stored = CONFIG.model_copy(update={"store_completions": True})
    found = evaluate(model, "base", {"locks": _prompts()}, stored, 0, text=TEXT)
    assert not any(completion.redacted for completion in found.completions)


def test_redaction_keeps_the_hash_and_is_final() -> None:
    completion = Completion(
        model="lpa",
        benchmark="b",
        attack="direct",
        prompt_id="p",
        harmful=True,
        text="x" * 60,
        redacted=False,
        sha256="h",
        n_tokens=9,
    )
    once = redact(completion)
    assert once == replace(completion, text="x" * 40, redacted=True) == redact(once)
    short = replace(completion, text="No.")
    assert redact(short) == short


def test_progress_is_told_of_every_measure_until_it_is_done(model: HookedTransformer) -> None:
    last: dict[str, tuple[int, int]] = {}

    def progress(what: str, done: int, total: int) -> None:
        last[what] = (done, total)

    evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, progress, TEXT)
    assert len(last) == 4 and all(done == total for done, total in last.values())


@pytest.mark.parametrize("n", [0, 1])
def test_a_benchmark_too_small_for_an_interval_is_refused(model: HookedTransformer, n: int) -> None:
    with pytest.raises(InputError, match="two or more"):
        evaluate(model, "base", {"locks": _prompts(n)}, CONFIG, 0, text=TEXT)


def test_one_side_alone_has_no_auroc(model: HookedTransformer) -> None:
    harmful = [prompt for prompt in _prompts() if prompt.harmful]
    found = evaluate(model, "base", {"locks": harmful}, CONFIG, 0, text=TEXT)
    assert {s.side for s in found.scores if s.benchmark == "locks"} == {"harmful"}


def test_nan_logits_stop_the_evaluation(model: HookedTransformer) -> None:
    def spoil(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation * math.nan

    with (
        model.hooks(fwd_hooks=[("blocks.3.hook_resid_post", spoil)]),
        pytest.raises(NumericalError),
    ):
        evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT)


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary() -> None:
    model = tiny_model()
    model.unembed.W_U.zero_()
    model.unembed.b_U.zero_()
    found = perplexity(model, TEXT[1], 256)
    assert found.value == pytest.approx(model.cfg.d_vocab_out, rel=1e-5)


def test_perplexity_windows_predict_each_token_as_one_pass_over_the_text_does(
    model: HookedTransformer,
) -> None:
    row = model.tokenizer(TEXT[1]).input_ids[:257]  # type: ignore[misc]
    windows = [row[:256], row[255:257]]
    losses = []
    for window in windows:
        tokens = torch.tensor([window])
        logits = model(tokens, attention_mask=torch.ones_like(tokens))[0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none"))
    expected = torch.cat(losses).reshape(8, 32).mean(1).numpy()
    np.testing.assert_allclose(block_losses(model, TEXT[1], 256), expected, atol=1e-5)


def test_a_text_without_two_blocks_is_refused(model: HookedTransformer) -> None:
    with pytest.raises(InputError, match="tokens to predict"):
        perplexity(model, "a", 256)


MEASURE_OF = {
    KEYWORD_JUDGE: "refusal_rate",
    LOG_ODDS_JUDGE: "refusal_log_odds",
    SELF_REPORT_JUDGE: "self_report_error",
}


def _verdict(index: int, harmful: bool, judge: str, value: float | None) -> Verdict:
    return Verdict(
        model="base",
        benchmark="b",
        attack="direct",
        prompt_id=str(index),
        harmful=harmful,
        judge=judge,
        measure=MEASURE_OF[judge],
        value=value,
    )


def test_undecided_verdicts_leave_n_and_are_counted() -> None:
    values = [1.0, 1.0, 0.0, None]
    rows = [_verdict(i, True, KEYWORD_JUDGE, value) for i, value in enumerate(values)]
    (score,) = score_verdicts(rows, 0)
    assert (score.n, score.n_undecided) == (3, 1) and score.value == pytest.approx(2 / 3)
    (nothing,) = score_verdicts(rows[3:], 0)
    assert nothing.n == 0 and math.isnan(nothing.value) and nothing.method == "no verdict decided"


@pytest.mark.parametrize(
    ("value", "harmful", "error"),
    [(2.0, True, 1.0), (-2.0, True, 0.0), (2.0, False, 0.0), (-2.0, False, 1.0), (0.0, True, None)],
)
def test_a_self_report_errs_where_it_answers_harm_or_refuses_help(
    value: float, harmful: bool, error: float | None
) -> None:
    assert outcome(_verdict(0, harmful, SELF_REPORT_JUDGE, value)) == error


def _planted(shift: float, model: ModelLabel) -> Evaluation:
    generator = np.random.default_rng(0)
    rows = []
    for index in range(40):
        harmful = index < 20
        noise = float(generator.normal())
        rows.append(_verdict(index, harmful, LOG_ODDS_JUDGE, noise + shift * harmful))
        refuses = float(harmful and shift > 0)
        rows.append(_verdict(index, harmful, KEYWORD_JUDGE, refuses))
    verdicts = tuple(replace(row, model=model) for row in rows)
    return Evaluation((), verdicts, tuple(score_verdicts(verdicts, 0)))


def test_contrasts_find_a_planted_change_on_its_side_alone() -> None:
    found = contrasts(_planted(0.0, "base").verdicts, _planted(2.0, "lpa").verdicts, 0)
    by_key = {(c.measure, c.side): c for c in found}
    assert {c.first for c in found} == {"base"} and {c.second for c in found} == {"lpa"}
    assert by_key["refusal_rate", "harmful"].difference == 1.0
    assert by_key["refusal_rate", "harmful"].p_value < 1e-4
    assert by_key["refusal_rate", "harmless"].difference == 0.0
    assert by_key["refusal_rate", "harmless"].p_value == 1.0
    assert by_key["refusal_log_odds", "harmful"].difference == pytest.approx(2.0)
    assert by_key["refusal_log_odds", "harmless"].p_value == 1.0
    assert by_key["auroc", "both"].low > 0 and by_key["auroc", "both"].n == 40


def test_contrasts_of_a_whole_evaluation_with_itself_find_nothing(found: Evaluation) -> None:
    rows = contrasts(found.verdicts, found.verdicts, 0)
    assert {row.measure for row in rows} == {s.measure for s in found.scores}
    assert all(row.difference == 0 and row.p_value == 1.0 for row in rows if row.n)


def test_contrasts_refuse_evaluations_of_different_prompts() -> None:
    before, after = _planted(0.0, "base").verdicts, _planted(1.0, "lpa").verdicts
    with pytest.raises(ValueError, match="same prompts"):
        contrasts(before, after[:-2], 0)


def test_contrasts_leave_out_a_judge_that_only_one_model_has() -> None:
    before, after = _planted(0.0, "base").verdicts, _planted(1.0, "lpa").verdicts
    alone = [verdict for verdict in after if verdict.judge == LOG_ODDS_JUDGE]
    assert {row.judge for row in contrasts(before, alone, 0)} == {LOG_ODDS_JUDGE}


def test_a_pair_with_an_undecided_verdict_is_left_out() -> None:
    before, after = _planted(0.0, "base"), _planted(2.0, "lpa")
    first = [
        replace(v, value=None) if v.judge == KEYWORD_JUDGE and v.prompt_id == "0" else v
        for v in before.verdicts
    ]
    found = contrasts(first, after.verdicts, 0)
    rates = [c.n for c in found if c.measure == "refusal_rate"]
    assert rates == [19, 20]


class _Kept(dict[str, Rows]):
    """A keeper in memory that stops a call after some chunks, as a kill would."""

    def __init__(self, n: int | None = None) -> None:
        super().__init__()
        self.left = n

    def put(self, key: str, rows: Rows) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self[key] = rows


def test_a_stopped_evaluation_goes_on_without_repeating_a_prompt(
    model: HookedTransformer, found: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = _Kept(3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT, keeper=keeper)
    assert len(keeper) == 3
    keeper.left, generated = None, []
    plain = module.generate
    monkeypatch.setattr(
        module, "generate", lambda m, rows, *a: generated.extend(rows) or plain(m, rows, *a)
    )
    whole = evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT, keeper=keeper)
    assert (whole.completions, whole.verdicts) == (found.completions, found.verdicts)
    assert len(generated) == 16 - 8  # two chunks of three and one of two were there


def test_rows_of_another_attack_or_model_are_not_taken(model: HookedTransformer) -> None:
    place = Place("base", "locks", "direct")
    chunk = Chunk(place, tuple(_prompts()), "as it stands")
    others = [
        replace(chunk, attack="otherwise"),
        replace(chunk, place=replace(place, model="lpa")),
        replace(chunk, place=replace(place, attack="prefill")),
        replace(chunk, prompts=chunk.prompts[:-1]),
    ]
    assert len({one.key for one in (chunk, *others)}) == 5


def test_judges_read_whole_completions_before_they_are_redacted(
    model: HookedTransformer, refuses_harm: list[list[int]]
) -> None:
    read: list[str] = []

    def decide(exchanges: Sequence[Exchange]) -> list[tuple[int, JudgeAnswer]]:
        read.extend(exchange.completion.text for exchange in exchanges)
        return [(index, JudgeAnswer(0.25)) for index in range(len(exchanges))]

    judge = Judge(name="j", measure="harm_score", decide=decide, citation="", limits="")
    found = evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT, judges=[judge])
    assert set(read) == {REFUSAL, ANSWER}
    assert _score(found.scores, "harm_score", "harmful", "direct").value == 0.25
    assert all(len(row.text) <= 40 for row in found.completions if row.harmful)


def test_an_attack_for_harmful_prompts_alone_is_given_no_others(
    model: HookedTransformer, refuses_harm: list[list[int]]
) -> None:
    attack = replace(find_attack("direct"), name="search", harmful_only=True)
    found = evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT, attacks=[attack])
    assert {row.harmful for row in found.completions} == {True}
    (cost,) = found.attacks
    assert (cost.attack, cost.n_prompts) == ("search", 4)


def test_an_attack_that_is_shared_is_mounted_once(model: HookedTransformer) -> None:
    mounted: list[int] = []
    direct = find_attack("direct")

    @contextmanager
    def mount(model: Any, prompts: Sequence[Prompt], progress: Any) -> Iterator[Any]:
        mounted.append(len(prompts))
        with direct.mount(model, prompts, progress) as inside:
            yield inside

    for shared, times in ((True, [8]), (False, [3, 3, 2])):
        mounted.clear()
        attack = replace(direct, mount=mount, budget=Budget(shared=shared))
        evaluate(model, "base", {"locks": _prompts()}, CONFIG, 0, text=TEXT, attacks=[attack])
        assert mounted == times
