"""Divergence from the base model against its formula, with the base model's own answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp.chat import chat_rows, stop_tokens
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.model import HookedTransformer
from lpa_interp.utility import divergence, kl_to_base, reference_log_probs
from tests.tiny import tiny_hugging_face, tiny_model

TEXTS = ["Tell me how to open the lock.", "Yes", "Would you answer this question, please?"]
KINDS = ("llama", "gpt2", "gemma2")


def _rows(model: HookedTransformer) -> list[list[int]]:
    return chat_rows(model, TEXTS)


def _logits(hf_model: Any, row: list[int], answer: list[int]) -> Tensor:
    """The logits that predict each answer token, by a plain pass of transformers, float64."""
    with torch.no_grad():
        logits = hf_model(torch.tensor([row + answer])).logits[0].double()
    return logits[len(row) - 1 : -1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_does_not_diverge_from_itself(kind: str) -> None:
    model = tiny_model(kind=kind)
    reference = reference_log_probs(model, _rows(model), n_tokens=5)
    assert kl_to_base(model, reference) == pytest.approx([0.0] * 3, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_over_a_large_vocabulary_is_no_divergence(seed: int) -> None:
    logits = 5 * torch.randn(2, 262_144, generator=torch.Generator().manual_seed(seed))
    kept = logits.log_softmax(-1)  # in float32, its sum of probabilities is off by about 1e-5
    assert divergence._mean_kl(kept, logits) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_greedy_answer_of_transformers(kind: str) -> None:
    model, hf_model = tiny_model(kind=kind), tiny_hugging_face(kind)
    reference = reference_log_probs(model, _rows(model), n_tokens=5)
    for row, answer, log_probs in zip(
        reference.rows, reference.answers, reference.log_probs, strict=True
    ):
        logits = _logits(hf_model, row, answer)
        assert answer == logits.argmax(-1).tolist() and 1 <= len(answer) <= 5
        assert torch.allclose(log_probs.double(), logits.log_softmax(-1), atol=1e-4)


def test_a_known_shift_of_the_logits_gives_the_value_worked_by_hand() -> None:
    base, moved, hf_model = tiny_model(), tiny_model(), tiny_hugging_face()
    shift = torch.linspace(-2, 2, base.cfg.d_vocab_out)
    moved.unembed.b_U.data += shift
    reference = reference_log_probs(base, _rows(base), n_tokens=4)
    expected = []
    for row, answer in zip(reference.rows, reference.answers, strict=True):
        p = _logits(hf_model, row, answer).softmax(-1)
        # log q = log p + shift - log sum p exp(shift), so KL = log sum p exp(shift) - sum p shift.
        shifted = (p * shift.double().exp()).sum(-1).log()
        expected.append(float((shifted - (p * shift.double()).sum(-1)).mean()))
    assert min(expected) > 0.1
    assert kl_to_base(moved, reference) == pytest.approx(expected, abs=1e-5)


def test_the_base_model_comes_first() -> None:
    base, other = tiny_model(seed=0), tiny_model(seed=1)
    for model in (base, other):
        model.unembed.W_U.data *= 20  # far from uniform, where the two directions differ
    answers = reference_log_probs(base, _rows(base), n_tokens=1)
    forward = kl_to_base(other, answers)
    p, q = (
        reference_log_probs(model, _rows(base), n_tokens=1).log_probs for model in (base, other)
    )
    by_hand = [
        [
            float((a.double().exp() * (a.double() - b.double())).sum())
            for a, b in zip(x, y, strict=True)
        ]
        for x, y in ((p, q), (q, p))
    ]
    assert forward == pytest.approx(by_hand[0], rel=1e-3)
    assert forward != pytest.approx(by_hand[1], rel=0.05)


def test_divergence_does_not_depend_on_the_batch() -> None:
    base, other = tiny_model(seed=0), tiny_model(seed=1)
    wide, narrow = (reference_log_probs(base, _rows(base), 6, size) for size in (16, 1))
    assert wide.answers == narrow.answers
    values = [kl_to_base(other, given, size) for given in (wide, narrow) for size in (16, 2, 1)]
    assert all(value == pytest.approx(values[0], abs=1e-5) for value in values)


def test_an_answer_ends_with_the_token_that_ends_the_turn() -> None:
    model = tiny_model()
    (stop, *_) = stop_tokens(model)
    model.unembed.b_U.data[stop] += 100.0
    reference = reference_log_probs(model, _rows(model), n_tokens=5)
    assert reference.answers == ([stop],) * 3
    assert [tuple(kept.shape) for kept in reference.log_probs] == [(1, model.cfg.d_vocab_out)] * 3
    assert kl_to_base(model, reference) == pytest.approx([0.0] * 3, abs=1e-6)


def test_hooks_take_part() -> None:
    model = tiny_model()
    reference = reference_log_probs(model, _rows(model), n_tokens=3)
    hook = ("blocks.2.hook_resid_post", lambda resid, hook: resid * torch.linspace(-1, 1, 32))
    with model.hooks(fwd_hooks=[hook]):
        assert min(kl_to_base(model, reference)) > 1e-3


def test_a_word_that_the_base_model_rules_out_adds_nothing() -> None:
    model, other = tiny_model(), tiny_model()
    for each in (model, other):
        each.unembed.b_U.data[7] = -math.inf
    reference = reference_log_probs(model, _rows(model), n_tokens=2)
    assert kl_to_base(other, reference) == pytest.approx([0.0] * 3, abs=1e-6)
    model.unembed.b_U.data[7] = 0.0
    reference = reference_log_probs(model, _rows(model), n_tokens=2)
    with pytest.raises(NumericalError, match="NaN or infinite"):
        kl_to_base(other, reference)


def test_what_cannot_be_compared_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    rows = _rows(model)
    with pytest.raises(InputError, match="n_tokens: 0 is not allowed"):
        reference_log_probs(model, rows, n_tokens=0)
    with pytest.raises(InputError, match=r"prompt 1: has 0 tokens \(1 to 249"):
        reference_log_probs(model, [rows[0], []])
    reference = reference_log_probs(model, rows, n_tokens=2)
    short = divergence.Reference(
        reference.rows, reference.answers, tuple(kept[:, :50] for kept in reference.log_probs)
    )
    with pytest.raises(InputError, match="not the 50 of its base"):
        kl_to_base(model, short)
    monkeypatch.setattr(divergence, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="of 3 prompts and 2 tokens takes"):
        reference_log_probs(model, rows, n_tokens=2)


def test_a_base_model_without_finite_logits_is_an_error() -> None:
    model = tiny_model()
    model.unembed.b_U.data[:] = math.nan
    with pytest.raises(NumericalError, match="base model"):
        reference_log_probs(model, _rows(model))
