"""Likelihoods of continuations against Hugging Face, and verdicts on items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp.contrasts import contrasts
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer, HookPoint
from lpa_interp.scoring import score_verdicts
from lpa_interp.utility import Item, Task, find_task, likelihoods, task_verdicts
from lpa_interp.utility import likelihood as module
from lpa_interp.utility.likelihood import Likelihood, encode_pair
from lpa_interp.utility.task import GREEDY_JUDGE, LIKELIHOOD_JUDGE
from tests.tiny import tiny_folder, tiny_hugging_face, tiny_model

CONTEXT = "Would you answer this question: where did the cat sit?\nAnswer:"
ITEMS = [
    Item(id="long", contexts=(CONTEXT,), choices=("on the mat", "on the lock", "no"), gold=0),
    Item(
        id="letters", contexts=("Is it open?\nA. yes\nB. no\nAnswer:",), choices=("A", "B"), gold=1
    ),
    Item(id="names", contexts=("I am here so Ann", "I am here so Bob"), choices=("sat.",), gold=0),
    Item(id="target", contexts=("Sorry, I cannot help with",), choices=("that",), gold=0),
    Item(id="apart", contexts=("Yes I", "No I do"), choices=("agree with this",), gold=1),
]
KINDS = ("llama", "gpt2", "gemma2", "gemma3_text", "qwen3", "gpt_neox")


def whole_pass(hf_model: Any, context: list[int], rest: list[int]) -> tuple[float, bool]:
    """A plain pass of transformers over context and continuation: log-likelihood and greed."""
    with torch.no_grad():
        logits = hf_model(torch.tensor([context + rest])).logits[0, len(context) - 1 : -1]
    targets = torch.tensor(rest)
    log_probs = logits.double().log_softmax(-1).gather(1, targets[:, None])
    return log_probs.sum().item(), bool((logits.argmax(-1) == targets).all())


def flat(found: list[tuple[Likelihood, ...]]) -> list[float]:
    return [each.log_prob for row in found for each in row]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_transformers(kind: str) -> None:
    model, hf_model = tiny_model(kind=kind), tiny_hugging_face(kind)
    found = likelihoods(model, ITEMS)
    assert [len(row) for row in found] == [3, 2, 2, 1, 2]
    lengths = set()
    for item, row in zip(ITEMS, found, strict=True):
        for pair, ours in zip(item.pairs, row, strict=True):
            context, rest = encode_pair(model, *pair)
            theirs, greedy = whole_pass(hf_model, context, rest)
            assert ours.log_prob == pytest.approx(theirs, abs=1e-4)
            assert (ours.is_greedy, ours.n_tokens) == (greedy, len(rest))
            lengths.add(len(rest))
    assert min(lengths) == 1 and max(lengths) > 3


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_likelihoods_do_not_depend_on_the_batch(kind: str) -> None:
    model = tiny_model(kind=kind)
    alone = [likelihoods(model, [item])[0] for item in ITEMS]
    for batch_size in (1, 2, 16):
        assert flat(likelihoods(model, ITEMS, batch_size)) == pytest.approx(flat(alone), abs=1e-4)
    backwards = likelihoods(model, ITEMS[::-1])[::-1]
    assert flat(backwards) == pytest.approx(flat(alone), abs=1e-4)


def test_long_rows_share_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    together = flat(likelihoods(model, ITEMS))
    sizes: list[int] = []
    monkeypatch.setattr(module, "CPU_POSITIONS", 1)
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: sizes.append(len(x)))]):
        apart = flat(likelihoods(model, ITEMS))
    assert sizes == [1] * len(ITEMS) and apart == pytest.approx(together, abs=1e-4)


def test_what_choices_share_runs_once() -> None:
    model, item = tiny_model(), ITEMS[0]
    encoded = [encode_pair(model, *pair) for pair in item.pairs]
    assert encoded[0][1][:2] == encoded[1][1][:2]  # two choices start alike
    widths: list[int] = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: widths.append(x.shape[1]))]):
        likelihoods(model, [item])
    context, rests = encoded[0][0], [rest for _, rest in encoded]
    assert widths == [len(context) + sum(len(rest) - 1 for rest in rests)]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_choices_of_one_token_cost_no_more_than_the_question(kind: str) -> None:
    model, item = tiny_model(kind=kind), ITEMS[1]
    (context, rest), _ = (encode_pair(model, *pair) for pair in item.pairs)
    shapes: list[tuple[int, ...]] = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: shapes.append(x.shape[:2]))]):
        likelihoods(model, [item])
    assert shapes == [(1, len(context) + len(rest) - 1)]


def test_hooks_and_adapters_take_part() -> None:
    model = tiny_model()
    before = flat(likelihoods(model, ITEMS))

    def shift(resid: Tensor, hook: HookPoint) -> Tensor:
        return resid + torch.linspace(-1, 1, resid.shape[-1])

    for site in ("blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"):
        with model.hooks(fwd_hooks=[(site, shift)]):
            fused = flat(likelihoods(model, ITEMS))
        assert fused != pytest.approx(before, abs=1e-2), site
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", shift)]):
        rows = flat(likelihoods(model, ITEMS))
        # Closed to the fused pass by a hook that does nothing, every choice is a row.
        with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z)]):
            plain = flat(likelihoods(model, ITEMS))
    assert rows == pytest.approx(plain, abs=1e-4)
    adapter = attach_lora(model, ["q", "down"], 4, 8.0, seed=0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    assert flat(likelihoods(model, ITEMS)) != pytest.approx(before, abs=1e-2)


def test_spaces_at_the_end_of_a_context_go_to_the_continuation() -> None:
    model = tiny_model()
    assert model.tokenizer is not None
    whole = model.tokenizer("I agree  with this").input_ids
    context, rest = encode_pair(model, "I agree  ", "with this")
    assert context == model.tokenizer("I agree").input_ids and context + rest == whole
    assert encode_pair(model, "I agree", "  with this") == (context, rest)


def test_a_bos_is_part_of_the_context_alone() -> None:
    model = tiny_model()
    plain = encode_pair(model, *ITEMS[0].pairs[0])
    model.cfg.default_prepend_bos = True
    assert model.tokenizer is not None
    assert encode_pair(model, *ITEMS[0].pairs[0]) == (
        [model.tokenizer.bos_token_id, *plain[0]],
        plain[1],
    )


def test_a_continuation_is_greedy_only_where_every_token_is_the_likeliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, hf_model = tiny_model(), tiny_hugging_face()
    context, row = encode_pair(model, *ITEMS[0].pairs[0])[0], []
    for _ in range(4):
        with torch.no_grad():
            row.append(int(hf_model(torch.tensor([context + row])).logits[0, -1].argmax()))
    changed = [[*row[:place], row[place] ^ 1, *row[place + 1 :]] for place in range(4)]
    rests = iter([row, *changed])
    monkeypatch.setattr(module, "encode_pair", lambda model, *pair: (context, next(rests)))
    item = Item(id="x", contexts=("a",), choices=("b", "c", "d", "e", "f"), gold=0)
    (found,) = likelihoods(model, [item])
    assert [each.is_greedy for each in found] == [True, False, False, False, False]


def test_items_that_do_not_fit_are_named_before_anything_runs() -> None:
    model = tiny_model()
    fits = Item(id="fits", contexts=("Ω " * 60,), choices=("Yes",), gold=0)
    long = Item(id="long-7", contexts=("Ω " * 90,), choices=("Yes",), gold=0)
    assert (
        len(encode_pair(model, *long.pairs[0])[0])
        > 256
        >= len(encode_pair(model, *fits.pairs[0])[0])
    )
    likelihoods(model, [fits])
    with (
        model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: pytest.fail("ran"))]),
        pytest.raises(InputError, match=r"item long-7: has \d+ tokens \(256, the context"),
    ):
        likelihoods(model, [fits, long])


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        encode_pair(tiny_model(), "  ", "Yes")


def test_a_likelihood_that_is_not_finite_is_an_error() -> None:
    model = tiny_model()
    model.unembed.b_U.data[:] = math.nan
    with pytest.raises(NumericalError, match="log-likelihood"):
        likelihoods(model, ITEMS)


LETTERS = Task(
    name="letters",
    files=(),
    folder="none",
    read=lambda paths: [],
    judges=(LIKELIHOOD_JUDGE,),
    prompt="",
    source="",
    licence="",
    citation="",
)


def _letters(golds: list[int]) -> list[Item]:
    return [
        Item(id=f"q{i}", contexts=(f"Question {i}:",), choices=("A", "B", "C", "D"), gold=gold)
        for i, gold in enumerate(golds)
    ]


def _fond_of_b() -> HookedTransformer:
    model = tiny_model()
    (token,) = encode_pair(model, "Question 1:", " B")[1][-1:]
    model.unembed.b_U.data[token] += 50.0
    return model


def test_accuracy_is_1_for_a_model_that_knows_and_chance_for_one_that_does_not() -> None:
    model = _fond_of_b()
    known = task_verdicts(model, "source", LETTERS, _letters([1] * 40))
    guessed = task_verdicts(model, "source", LETTERS, _letters([i % 4 for i in range(40)]))
    assert [sum(v.value or 0.0 for v in rows) / 40 for rows in (known, guessed)] == [1.0, 0.25]


def test_verdicts_flow_into_scores_and_paired_tests() -> None:
    items = _letters([1] * 20)
    before = task_verdicts(tiny_model(), "base", LETTERS, items)
    after = task_verdicts(_fond_of_b(), "lpa", LETTERS, items)
    assert {(v.benchmark, v.attack, v.judge, v.harmful) for v in before} == {
        ("letters", "none", "likelihood", False)
    }
    assert [v.prompt_id for v in before] == [item.id for item in items]
    (score,) = score_verdicts(after, seed=0)
    assert (score.measure, score.side, score.value, score.n) == ("accuracy", "both", 1.0, 20)
    (contrast,) = contrasts(before, after, seed=0)
    assert contrast.measure == "accuracy" and contrast.n == 20
    assert contrast.difference == 1.0 - sum(v.value or 0.0 for v in before) / 20


def test_lambada_verdicts_hold_the_loss_of_the_target_beside_its_greedy_match() -> None:
    task, model = find_task("lambada_openai"), tiny_model()
    verdicts = task_verdicts(model, "source", task, [ITEMS[3], ITEMS[3]])
    (found,) = likelihoods(model, [ITEMS[3]])
    assert [v.judge for v in verdicts] == [GREEDY_JUDGE] * 2 + ["target loss"] * 2
    assert [v.measure for v in verdicts] == ["accuracy"] * 2 + ["perplexity"] * 2
    assert verdicts[2].value == pytest.approx(-found[0].log_prob, abs=1e-5)


@pytest.mark.weights
def test_the_default_model_knows_a_capital(default_model: HookedTransformer) -> None:
    context = "Question: What is the capital of France?\nAnswer:"
    item = Item(id="x", contexts=(context,), choices=("Lima", "Paris", "a red stone"), gold=1)
    (found,) = likelihoods(default_model, [item])
    assert max(found, key=lambda each: each.log_prob) == found[1]


def test_the_harness_finds_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from experiments.lm_eval_check import compare, harness_model

    asked = [
        ("Question: Is it open?\nAnswer:", ("Yes", "I do not agree", "Señor  ")),
        ("Question: Who is it?\nAnswer:", ("the cat", "the lock", "a sat mat")),
    ]
    items = [
        Item(id=f"x-{i}", contexts=(text,), choices=(*choices, "no"), gold=i)
        for i, (text, choices) in enumerate(asked)
    ]
    harness = harness_model(tiny_folder(tmp_path / "model"))
    row = compare(tiny_model(), harness, find_task("arc_easy"), items)
    assert row["equal"] and row["n_continuations"] == 8
    assert row["largest_difference_nats"] < 1e-4
    target = [Item(id="y", contexts=("Sorry, I cannot help with",), choices=("that",), gold=0)]
    assert compare(tiny_model(), harness, find_task("lambada_openai"), target)["equal"]
    other = compare(tiny_model(seed=1), harness, find_task("arc_easy"), items)
    assert not other["equal"] and other["largest_difference_nats"] > 1e-2
