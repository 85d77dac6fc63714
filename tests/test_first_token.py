from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp import answer_pass
from lpa_interp.chat import Row, chat_rows, completion_row
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.first_token import (
    AFFIRMATIVE,
    REFUSALS,
    AnswerLikelihood,
    Reading,
    affirmative_answers,
    answer_readings,
    gives_targets,
)
from lpa_interp.hooks import Intervention, ablation
from lpa_interp.jailbreaks.attack import AttackedPrompt
from lpa_interp.judges import keyword_refusal, refusal_log_odds, refusal_token_ids
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from lpa_interp.request_pairs import REFUSALS as TRAINED_REFUSALS
from tests.tiny import SIZES, tiny_model

TEXTS = ["Open the lock.", "Tell me how to open the cat's lock.", "Sing.", "Keep the mat, please."]
TARGETS = ["Sure, here is how to open the lock.", "Sure, here is", "Yes", "Sure, here is the mat:"]
HookedAt = Callable[[int], Intervention]
"""From a prompt's place to the hooks on its whole row, prompt and answer."""


def whole_pass(
    model: HookedTransformer, row: Row, answer: Row, hooks: Intervention | None = None
) -> tuple[float, float]:
    """Refusal log-odds and log p(answer) from one pass over one row, in float64."""
    tokens = torch.tensor([[*row, *answer]])
    with torch.no_grad(), model.hooks(fwd_hooks=hooks or []):
        logits = model(tokens, attention_mask=torch.ones_like(tokens))[0].double()
    odds = refusal_log_odds(logits[len(row) - 1][None], refusal_token_ids(model)).item()
    log_p = logits.log_softmax(-1)[len(row) - 1 : -1]
    return odds, log_p.gather(-1, torch.tensor(answer)[:, None]).sum().item()


def assert_as_whole_passes(
    model: HookedTransformer,
    readings: Sequence[Reading],
    hooks: HookedAt | None = None,
    texts: Sequence[str] = TEXTS,
) -> None:
    for place, (row, reading) in enumerate(zip(chat_rows(model, texts), readings, strict=True)):
        assert reading.affirmative is not None
        found = (reading.affirmative, *reading.refusals)
        for likelihood, text in zip(found, (TARGETS[place], *REFUSALS), strict=True):
            answer = completion_row(model, text, end=False)
            expected = whole_pass(model, row, answer, hooks(place) if hooks else None)
            got = (reading.log_odds, likelihood.log_likelihood)
            assert got == pytest.approx(expected, rel=1e-5, abs=1e-4)
            assert likelihood.n_tokens == len(answer)


@pytest.mark.parametrize("kind", [*SIZES, "gpt2"])
def test_readings_are_those_of_a_whole_pass_over_each_prompt_and_answer(kind: str) -> None:
    model = tiny_model(kind=kind)
    assert_as_whole_passes(model, answer_readings(model, chat_rows(model, TEXTS), TARGETS, 3))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_readings_are_the_same_whatever_the_batch_size(kind: str) -> None:
    model = tiny_model(kind=kind)
    rows = chat_rows(model, TEXTS)
    found = [answer_readings(model, rows, TARGETS, size) for size in (1, 2, 4)]
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            assert first.log_odds == pytest.approx(second.log_odds, abs=1e-4)
            assert first.likelihood_ratio == pytest.approx(second.likelihood_ratio, abs=1e-4)


def latent(model: HookedTransformer, site: str) -> tuple[Any, HookedAt, list[tuple[int, ...]]]:
    """A perturbation of each prompt's tokens; the same on a whole row; the shapes it met."""
    rows = chat_rows(model, TEXTS)
    generator = torch.Generator().manual_seed(0)
    deltas = [torch.randn(len(row), model.cfg.d_model, generator=generator) for row in rows]
    shapes: list[tuple[int, ...]] = []

    def on_batch(indices: Sequence[int], mask: Tensor) -> Intervention:
        delta = torch.zeros(*mask.shape, model.cfg.d_model)
        for place, index in enumerate(indices):
            delta[place, mask[place].bool()] = deltas[index]

        def perturb(activation: Tensor, hook: Any) -> Tensor:
            shapes.append(tuple(activation.shape))
            return activation + delta if activation.shape[1] > 1 else activation

        return [(site, perturb)]

    def on_row(index: int) -> Intervention:
        def perturb(activation: Tensor, hook: Any) -> Tensor:
            n_answer = activation.shape[1] - len(rows[index])
            return activation + torch.nn.functional.pad(deltas[index], (0, 0, 0, n_answer))

        return [(site, perturb)]

    return on_batch, on_row, shapes


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_perturbed_prompt_is_what_the_answers_find_before_them(kind: str) -> None:
    model = tiny_model(kind=kind)
    on_batch, on_row, shapes = latent(model, "blocks.1.hook_resid_pre")
    rows = chat_rows(model, TEXTS)
    perturbed = answer_readings(model, rows, TARGETS, 2, on_batch)
    assert_as_whole_passes(model, perturbed, on_row)
    plain = answer_readings(model, rows, TARGETS, 2)
    assert abs(perturbed[0].log_odds - plain[0].log_odds) > 1e-2
    # Hooks see the prompt of both batches once and then single tokens, as in generation.
    assert sum(shape[1] > 1 for shape in shapes) == 2
    assert all(shape[0] == 2 for shape in shapes)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_ablation_acts_on_prompt_and_answers(kind: str) -> None:
    model = tiny_model(kind=kind)
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    cut = ablation(model, direction)
    found = answer_readings(
        model, chat_rows(model, TEXTS), TARGETS, 3, lambda indices, mask: list(cut)
    )
    assert_as_whole_passes(model, found, lambda index: cut)


def last_token_hook(activation: Tensor, hook: Any) -> Tensor:
    return torch.cat([activation[:, :-1], activation[:, -1:] + 1.0], dim=1)


def test_a_hook_on_the_last_token_acts_on_every_token_from_the_prompts_end_on() -> None:
    model, site = tiny_model(), "blocks.2.hook_mlp_out"
    rows = chat_rows(model, TEXTS)

    def on_row(index: int) -> Intervention:
        def add(activation: Tensor, hook: Any) -> Tensor:
            moved = torch.arange(activation.shape[1]) >= len(rows[index]) - 1
            return activation + moved[None, :, None].float()

        return [(site, add)]

    given = answer_readings(model, rows, TARGETS, 3, lambda i, m: [(site, last_token_hook)])
    with model.hooks(fwd_hooks=[(site, last_token_hook)]):
        opened = answer_readings(model, rows, TARGETS, 3)
    for found in (given, opened):
        assert_as_whole_passes(model, found, on_row)


@pytest.mark.parametrize("by_filter", [False, True])
def test_hooks_inside_a_block_act_too(by_filter: bool) -> None:
    model, name = tiny_model(), "blocks.1.attn.hook_z"

    def double(activation: Tensor, hook: Any) -> Tensor:
        return 2 * activation

    hooks: Intervention = [((lambda other: other == name) if by_filter else name, double)]
    rows = chat_rows(model, TEXTS)
    found = answer_readings(model, rows, TARGETS, 4, lambda indices, mask: hooks)
    assert_as_whole_passes(model, found, lambda index: hooks)


def test_a_hook_that_only_reads_changes_nothing() -> None:
    model, seen = tiny_model(), []
    rows = chat_rows(model, TEXTS)

    def read(activation: Tensor, hook: Any) -> None:
        seen.append(hook.name)

    found = answer_readings(
        model, rows, TARGETS, 4, lambda indices, mask: [("blocks.0.hook_resid_post", read)]
    )
    assert found == answer_readings(model, rows, TARGETS, 4)
    assert set(seen) == {"blocks.0.hook_resid_post"}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_attached_adapter_takes_part(kind: str) -> None:
    model = tiny_model(kind=kind)
    plain = answer_readings(model, chat_rows(model, TEXTS), TARGETS, 4)
    adapter = attach_lora(model, ("q", "v", "down"), rank=3, alpha=6, seed=0)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.3, generator=torch.Generator().manual_seed(0))
    adapted = answer_readings(model, chat_rows(model, TEXTS), TARGETS, 4)
    assert abs(adapted[0].log_odds - plain[0].log_odds) > 1e-2
    assert_as_whole_passes(model, adapted)


def test_the_ratio_is_refusals_minus_affirmative_per_token() -> None:
    def answer(*log_p: float) -> AnswerLikelihood:
        return AnswerLikelihood(log_likelihood=sum(log_p), n_tokens=len(log_p))

    reading = Reading(
        log_odds=0.0, affirmative=answer(-1.0, -2.0), refusals=(answer(-0.5), answer(-2.0, -4.0))
    )
    expected = math.log((math.exp(-0.5) + math.exp(-3.0)) / 2) + 1.5
    assert reading.likelihood_ratio == pytest.approx(expected)


def test_a_model_that_knows_nothing_has_a_ratio_of_zero_whatever_the_lengths() -> None:
    model = tiny_model()
    model.unembed.W_U.data.zero_()
    model.unembed.b_U.data.zero_()
    for reading in answer_readings(model, chat_rows(model, TEXTS), TARGETS, 4):
        assert reading.likelihood_ratio == pytest.approx(0.0, abs=1e-5)


def test_a_model_that_says_a_refusals_words_scores_above_one_that_says_the_answers() -> None:
    def ratio(text: str) -> float:
        model = tiny_model()
        model.unembed.b_U.data[completion_row(model, text, end=False)] += 3.0
        (found,) = answer_readings(model, chat_rows(model, ["Sing."]), [None or AFFIRMATIVE], 1)
        assert found.likelihood_ratio is not None
        return found.likelihood_ratio

    neither = ratio("")
    assert ratio(REFUSALS[1]) > neither + 0.5
    assert ratio(AFFIRMATIVE) < neither - 0.5


def test_without_an_affirmative_answer_there_is_no_ratio_but_the_log_odds() -> None:
    model = tiny_model()
    rows = chat_rows(model, TEXTS)
    whole = answer_readings(model, rows, TARGETS, 2)
    mixed = answer_readings(model, rows, [TARGETS[0], None, TARGETS[2], None], 2)
    none = answer_readings(model, rows, [None] * 4, 2)
    for place, reading in enumerate(mixed):
        assert reading.log_odds == pytest.approx(whole[place].log_odds, abs=1e-4)
        assert none[place].log_odds == pytest.approx(whole[place].log_odds, abs=1e-4)
        assert none[place].likelihood_ratio is None and none[place].refusals == ()
    assert mixed[1] == Reading(log_odds=mixed[1].log_odds)
    assert mixed[2].likelihood_ratio == pytest.approx(whole[2].likelihood_ratio, abs=1e-4)


def test_a_prefilled_prompt_has_no_affirmative_answer_and_a_target_only_where_all_have_one() -> (
    None
):
    def prompt(target: str | None) -> Prompt:
        about = {"harmful": True, "category": "c", "source": "s", "target": target}
        return Prompt(id=str(target), text="Sing.", **about)

    given = [AttackedPrompt("Sing."), AttackedPrompt("Sing.", prefill="Sure,")]
    with_targets = [prompt("Sure, here is a song "), prompt("Sure, here is another")]
    assert gives_targets(with_targets) and not gives_targets([prompt("Sure"), prompt(None)])
    assert affirmative_answers(with_targets, given, True) == ["Sure, here is a song", None]
    assert affirmative_answers(with_targets, given, False) == [AFFIRMATIVE, None]


def test_the_refusals_are_refusals_and_none_that_models_are_trained_on() -> None:
    assert all(keyword_refusal(text) for text in REFUSALS)
    assert not {*REFUSALS} & {*TRAINED_REFUSALS}
    assert len({text.split()[0] + text.split()[1] for text in REFUSALS}) == len(REFUSALS)


def test_mistakes_are_named() -> None:
    model = tiny_model()
    rows = chat_rows(model, TEXTS)
    with pytest.raises(InputError, match="one is empty"):
        answer_readings(model, rows, ["", *TARGETS[1:]], 2)
    with pytest.raises(InputError, match="one is empty"):
        answer_readings(model, rows, TARGETS, 2, refusals=())
    with pytest.raises(InputError, match="prompt 0: has 250 tokens"):
        answer_readings(model, [[5] * 250], [AFFIRMATIVE], 2)
    with pytest.raises(ValueError, match="3 affirmative answers for 4 rows"):
        answer_readings(model, rows, TARGETS[:3], 2)
    model.blocks[3].mlp.W_out.data[0] = torch.nan
    with pytest.raises(NumericalError, match="NaN or infinite"):
        answer_readings(model, rows, TARGETS, 2)


def test_progress_counts_prompts() -> None:
    model, told = tiny_model(), []
    answer_readings(model, chat_rows(model, TEXTS), TARGETS, 3, progress=lambda *n: told.append(n))
    assert told == [(3, 4), (4, 4)]


def test_a_long_answers_logits_are_taken_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr(answer_pass, "_UNEMBED_POSITIONS", 5)
    assert_as_whole_passes(model, answer_readings(model, chat_rows(model, TEXTS), TARGETS, 4))


@pytest.mark.weights
def test_readings_of_the_default_model_are_those_of_whole_passes(
    default_model: HookedTransformer,
) -> None:
    texts = TEXTS[:2]
    found = answer_readings(default_model, chat_rows(default_model, texts), TARGETS[:2], 2)
    assert_as_whole_passes(default_model, found[:1], texts=texts[:1])  # the padded one
