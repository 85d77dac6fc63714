"""What is said under an attack: perturbations while writing, redaction, verdicts, the rate."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp import model as model_module
from lpa_interp import watch as watch_module
from lpa_interp.batches import TraitBatch, answer_logits, make_batch
from lpa_interp.chat import chat_rows, stop_tokens, tokenizer_of
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.generation import generate
from lpa_interp.hooks import ablation
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import AttackLosses, Perturbation
from lpa_interp.records import HarmRate, WatchedCompletion
from lpa_interp.stats import wilson_interval
from lpa_interp.watch import harm_rate, watch
from tests.statements import STATEMENTS
from tests.tiny import tiny_model

LAST = "blocks.3.hook_resid_post"
"""What is added here goes through the final norm alone, so it can force a token."""


def perturbation(batch: TraitBatch, deltas: dict[str, Tensor], **changes: Any) -> Perturbation:
    losses = AttackLosses(0.0, 0.0)
    return Perturbation(losses, losses, batch.attack_mask("both"), deltas, **changes)


def no_deltas(model: HookedTransformer, batch: TraitBatch) -> Tensor:
    n_batch, n_prompt = batch.prompt.shape
    return torch.zeros(n_batch, n_prompt + batch.answers.shape[-1], model.cfg.d_model)


def force(model: HookedTransformer, token: int) -> Tensor:
    """A vector after the last block that makes a token win."""
    return 1e4 * (model.W_U[:, token] - model.W_U.mean(1))


def token_of(model: HookedTransformer, character: str) -> int:
    return int(tokenizer_of(model)(character, add_special_tokens=False).input_ids[0])


def texts(rows: list[WatchedCompletion]) -> list[str]:
    return [row.text for row in rows]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_or_with_a_zero_perturbation_the_text_is_what_generate_gives(kind: str) -> None:
    model = tiny_model(kind=kind)
    batch = make_batch(model, STATEMENTS, None)
    zero = perturbation(batch, {"hook_embed": no_deltas(model, batch)})
    expected = generate(model, chat_rows(model, [s.text for s in STATEMENTS]), 30)
    for attack in (None, zero):
        rows = watch(model, batch, STATEMENTS, attack, step=1, max_new_tokens=30, keep_text=True)
        assert texts(rows) == expected
        assert [row.attacked for row in rows] == [attack is not None] * len(rows)
        assert [(row.step, row.statement_id, row.side) for row in rows] == [
            (1, statement.id, statement.side) for statement in STATEMENTS
        ]


@pytest.mark.parametrize("position", [0, 1, 4])
def test_a_planted_perturbation_forces_its_token_at_its_position(position: int) -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    delta, n_prompt = no_deltas(model, batch), batch.prompt.shape[1]
    # Answer token i is predicted at the position before it, for i = 0 the prompt's last.
    delta[:, n_prompt + position - 1] = force(model, token_of(model, "Q"))
    attack = perturbation(batch, {LAST: delta})
    plain = watch(model, batch, STATEMENTS, None, step=1, keep_text=True)
    rows = watch(model, batch, STATEMENTS, attack, step=1, keep_text=True)
    for before, row in zip(plain, rows, strict=True):
        assert "Q" in row.text and "Q" not in before.text
        assert row.text.startswith("Q") == (position == 0)


def test_the_perturbation_acts_as_it_does_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    generator = torch.Generator().manual_seed(2)
    shape = no_deltas(model, batch).shape
    sites = ("hook_embed", "blocks.1.hook_mlp_out")
    deltas = {name: 0.3 * torch.randn(shape, generator=generator) for name in sites}
    seen: list[Tensor] = []

    def last_logits(*arguments: Any, **options: Any) -> Tensor:
        seen.append(model_module.last_logits(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(watch_module, "last_logits", last_logits)
    n_answer = batch.answers.shape[-1]
    attack = perturbation(batch, deltas)
    watch(model, batch, STATEMENTS, attack, step=1, max_new_tokens=n_answer)
    written = torch.cat(seen, dim=1)
    answers = written.argmax(-1).expand(2, -1, -1)
    assert not torch.isin(answers, torch.tensor(stop_tokens(model))).any()
    forced = replace(batch, answers=answers, answer_mask=torch.ones_like(answers))
    expected = answer_logits(model, forced, deltas)[0]
    torch.testing.assert_close(written, expected, atol=1e-4, rtol=1e-4)


def test_nothing_is_added_beyond_the_answer_positions() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    n_forced = batch.answers.shape[-1] + 1  # the prompt's last position forces the first
    delta = no_deltas(model, batch) + force(model, token_of(model, "Q"))
    attack, length = perturbation(batch, {LAST: delta}), n_forced + 5
    rows = watch(model, batch, STATEMENTS, attack, step=1, max_new_tokens=length, keep_text=True)
    # The site feeds no key or value, so the rest is the plain continuation.
    prompts = chat_rows(model, [statement.text for statement in STATEMENTS])
    extended = [[*prompt, *[token_of(model, "Q")] * n_forced] for prompt in prompts]
    assert texts(rows) == ["Q" * n_forced + rest for rest in generate(model, extended, 5)]


def test_a_hook_counts_positions_and_writes_into_nothing() -> None:
    delta = torch.arange(10.0).view(1, 5, 2)
    kept, activation = delta.clone(), torch.ones(1, 4, 2)
    hook = watch_module._shift(delta)
    assert torch.equal(hook(activation), 1 + delta[:, :4])
    assert torch.equal(hook(activation[:, :2]), torch.tensor([[[9.0, 10.0], [1.0, 1.0]]]))
    assert torch.equal(hook(activation[:, :1]), torch.ones(1, 1, 2))
    assert torch.equal(delta, kept) and torch.equal(activation, torch.ones(1, 4, 2))


def test_padding_changes_no_completion_and_a_second_look_sees_the_same() -> None:
    model = tiny_model(kind="gpt2")  # absolute positions: padding would show
    batch = make_batch(model, STATEMENTS, None)
    generator = torch.Generator().manual_seed(1)
    delta = torch.randn(no_deltas(model, batch).shape, generator=generator)
    attack = perturbation(batch, {"hook_embed": delta})
    together = watch(model, batch, STATEMENTS, attack, step=1, keep_text=True)
    assert together == watch(model, batch, STATEMENTS, attack, step=1, keep_text=True)
    assert len({int(row.sum()) for row in batch.prompt_mask}) > 1
    for index, row in enumerate(together):
        n_padding = int((batch.prompt_mask[index] == 0).sum())
        own = make_batch(model, [STATEMENTS[index]], None)
        alone = perturbation(own, {"hook_embed": delta[index : index + 1, n_padding:]})
        assert watch(model, own, [STATEMENTS[index]], alone, step=1, keep_text=True) == [row]


def test_interventions_act_whether_they_come_with_the_attack_or_alone() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(3))
    cut = ablation(model, direction)
    expected = generate(model, chat_rows(model, [s.text for s in STATEMENTS]), 24, hooks=cut)
    attack = perturbation(batch, {}, hooks=cut)
    alone = watch(model, batch, STATEMENTS, None, step=1, keep_text=True, hooks=cut)
    assert texts(alone) == expected and all(row.attacked for row in alone)
    assert watch(model, batch, STATEMENTS, attack, step=1, keep_text=True) == alone
    nothing = watch(model, batch, STATEMENTS, perturbation(batch, {}), step=1, keep_text=True)
    assert texts(nothing) != expected and not any(row.attacked for row in nothing)


def test_rows_keep_the_start_of_a_text_and_the_judge_reads_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    read: list[str] = []

    def judge(text: str) -> float:
        read.append(text)
        return 1.0

    monkeypatch.setitem(watch_module.HARM_JUDGES, "all", judge)
    rows = watch(model, batch, STATEMENTS, None, step=3, max_new_tokens=60, judge="all")
    assert any(len(text) > 40 for text in read)
    for row, text in zip(rows, read, strict=True):
        assert row.text == text[:40] and row.redacted == (len(text) > 40)
        assert row.sha256 == hashlib.sha256(text.encode()).hexdigest()
        assert (row.judge, row.harmful) == ("all", 1.0)
    whole = watch(
        model, batch, STATEMENTS, None, step=3, max_new_tokens=60, judge="all", keep_text=True
    )
    assert texts(whole) == read[: len(rows)] and not any(row.redacted for row in whole)


def test_an_answer_that_ends_at_once_is_empty_and_undecided() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    delta = no_deltas(model, batch) + force(model, stop_tokens(model)[0])
    rows = watch(model, batch, STATEMENTS, perturbation(batch, {LAST: delta}), step=1)
    assert {(row.text, row.n_tokens, row.harmful) for row in rows} == {("", 0, None)}


def rows_of(verdicts: list[float | None]) -> list[WatchedCompletion]:
    common = {"step": 1, "side": "negative", "attacked": True, "n_tokens": 3, "text": "I"}
    common |= {"redacted": True, "sha256": "0", "judge": "harm_terms"}
    return [
        WatchedCompletion(statement_id=f"s-{index % 3}", harmful=verdict, **common)  # type: ignore[arg-type]
        for index, verdict in enumerate(verdicts)
    ]


def test_the_rate_leaves_undecided_completions_out_and_counts_them() -> None:
    rate = harm_rate(rows_of([1.0, 0.0, None, 0.0, None, 0.0]))
    interval = wilson_interval(1, 4)
    assert (rate.n, rate.n_undecided, rate.n_harmful, rate.n_statements) == (4, 2, 1, 3)
    assert (rate.rate, rate.low, rate.high) == (0.25, interval.low, interval.high)
    assert rate.judge == "harm_terms" and rate.attacked


def test_where_nothing_is_decided_the_rate_is_unknown_not_zero() -> None:
    rate = harm_rate(rows_of([None, None]))
    assert isinstance(rate, HarmRate) and (rate.n, rate.n_undecided, rate.n_harmful) == (0, 2, 0)
    assert all(math.isnan(value) for value in (rate.rate, rate.low, rate.high))


def test_a_rate_of_mixed_or_no_rows_is_refused() -> None:
    (row,) = rows_of([0.0])
    for rows in ([], [row, replace(row, attacked=False)], [row, replace(row, judge="other")]):
        with pytest.raises(InputError, match="one judge, attacked or not"):
            harm_rate(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": "oracle"}, r"judge: 'oracle' is unknown \(harm_terms\)"),
        ({"statements": STATEMENTS[:2]}, "2 for a batch of 6"),
        ({"max_new_tokens": 0}, "0 is not allowed"),
        ({"max_new_tokens": 250}, "250 is not allowed .1 to .*the context 256"),
    ],
)
def test_wrong_arguments_are_input_errors(changes: dict[str, Any], message: str) -> None:
    model = tiny_model()
    arguments = {"statements": STATEMENTS, "attack": None, "step": 1} | changes
    with pytest.raises(InputError, match=message):
        watch(model, make_batch(model, STATEMENTS, None), **arguments)


def test_a_perturbation_of_another_batch_is_refused_and_nan_stops() -> None:
    model = tiny_model()
    batch = make_batch(model, STATEMENTS, None)
    delta = no_deltas(model, batch)
    with pytest.raises(InputError, match="perturbation at hook_embed: has shape"):
        other = {"mask": batch.attack_mask("both")[:, 1:], "deltas": {"hook_embed": delta[:, 1:]}}
        watch(model, batch, STATEMENTS, replace(perturbation(batch, {}), **other), step=1)
    with pytest.raises(NumericalError, match="answer token 1 are NaN"):
        watch(model, batch, STATEMENTS, perturbation(batch, {LAST: delta / 0}), step=1)
