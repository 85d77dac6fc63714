from __future__ import annotations

import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from lpa_interp.chat import (
    chat_rows,
    completion_row,
    end_of_turn,
    format_chat,
    post_instruction_row,
    row_batches,
    stack_rows,
    stop_tokens,
    tokenize,
)
from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer, hook_model
from tests.tiny import TEMPLATE, tiny_hugging_face, tiny_model, tiny_tokenizer

TEXT = "Tell me how to open the lock."


def model_with(template: str | None, adds_bos: bool = False) -> HookedTransformer:
    """The tiny model with another chat template, and a tokenizer that adds a BOS or not."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    if adds_bos:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
        )
    return hook_model(tiny_hugging_face(), tokenizer, "cpu", "float32")


BOS_IN_TEMPLATE = "{{ bos_token }}" + "{{ messages[-1]['content'] }} answer:"
NO_BOS_IN_TEMPLATE = "{{ messages[-1]['content'] }} answer:"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.mark.parametrize("template", [BOS_IN_TEMPLATE, NO_BOS_IN_TEMPLATE, None])
def test_there_is_exactly_one_bos_where_the_tokenizer_adds_one(template: str | None) -> None:
    model = model_with(template, adds_bos=True)
    assert model.cfg.default_prepend_bos
    row = chat_rows(model, [TEXT])[0]
    assert row[0] == model.tokenizer.bos_token_id
    assert row.count(model.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(("template", "count"), [(BOS_IN_TEMPLATE, 1), (NO_BOS_IN_TEMPLATE, 0)])
def test_no_bos_is_added_where_the_tokenizer_adds_none(template: str, count: int) -> None:
    model = model_with(template)
    row = chat_rows(model, [TEXT])[0]
    assert row.count(model.tokenizer.bos_token_id) == count


def test_rows_are_the_template_tokenized_once() -> None:
    model = tiny_model()
    messages = [{"role": "user", "content": TEXT}]
    expected = model.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert chat_rows(model, [TEXT])[0] == list(expected)


def test_a_prefill_is_tokenized_as_part_of_the_whole() -> None:
    model = tiny_model()
    prefill = "Sure, here is"
    row = chat_rows(model, [TEXT], prefill=prefill)[0]
    assert row == tokenize(model, format_chat(model, TEXT) + prefill)
    assert model.tokenizer.decode(row).endswith("assistant\n" + prefill)


def test_a_system_message_comes_first_in_both_formats() -> None:
    templated = format_chat(tiny_model(), TEXT, system="You are helpful.")
    assert templated.startswith("<|start|>system\nYou are helpful.<|end|>")
    plain = format_chat(model_with(None), TEXT, system="You are helpful.")
    assert plain == f"You are helpful.\n\nUser: {TEXT}\n\nAssistant:"


def test_a_template_that_refuses_the_system_message_is_one_line() -> None:
    with pytest.raises(InputError, match="no system"):
        format_chat(model_with(NO_SYSTEM + TEMPLATE), TEXT, system="You are helpful.")


def test_a_completion_ends_with_the_end_of_turn_of_the_template() -> None:
    model = tiny_model()
    assert end_of_turn(model) == model.tokenizer.eos_token_id
    row = completion_row(model, "Yes")
    assert row[-1] == model.tokenizer.eos_token_id
    assert completion_row(model, "Yes", end=False) == row[:-1]
    assert completion_row(model_with(None), "Yes", end=False) == tokenize(model, " Yes")


def test_an_end_of_turn_of_its_own_stops_beside_the_end_of_sequence() -> None:
    # As in Gemma, whose answers end with <end_of_turn> while its tokenizer's end is <eos>.
    model = model_with(TEMPLATE.replace("<|end|>", "<|pad|>"))
    assert end_of_turn(model) == model.tokenizer.pad_token_id != model.tokenizer.eos_token_id
    assert stop_tokens(model) == [model.tokenizer.pad_token_id, model.tokenizer.eos_token_id]
    assert completion_row(model, "Yes")[-1] == model.tokenizer.pad_token_id


def test_the_post_instruction_row_is_what_follows_every_instruction() -> None:
    model = tiny_model()
    row = post_instruction_row(model)
    assert model.tokenizer.decode(row) == "<|end|>\n<|start|>assistant\n"
    assert all(other[-len(row) :] == row for other in chat_rows(model, ["a", "Yes no yes", "!"]))


def test_rows_are_stacked_with_padding_on_the_side_asked_for() -> None:
    tokens, mask = stack_rows([[5, 6, 7], [8]], 0, "cpu")
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    tokens, mask = stack_rows([[5, 6, 7], [8]], 0, "cpu", side="right")
    assert tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_batches_hold_every_row_once_with_rows_of_similar_length() -> None:
    model = tiny_model()
    rows = [[5] * length for length in (9, 2, 7, 3, 8)]
    batches = list(row_batches(model, rows, 2))
    assert sorted(index for chosen, _, _ in batches for index in chosen) == [0, 1, 2, 3, 4]
    assert [tokens.shape[1] for _, tokens, _ in batches] == [3, 8, 9]
    for chosen, tokens, mask in batches:
        for index, row, kept in zip(chosen, tokens, mask, strict=True):
            assert row[kept.bool()].tolist() == rows[index]


def test_a_model_without_tokenizer_says_so() -> None:
    model = tiny_model()
    model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        chat_rows(model, [TEXT])


@pytest.mark.weights
def test_the_default_model_is_prompted_as_its_template_says(
    default_model: HookedTransformer,
) -> None:
    row = chat_rows(default_model, [TEXT])[0]
    text = default_model.tokenizer.decode(row)
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n")
    assert row[:2] != [default_model.tokenizer.bos_token_id] * 2
    assert default_model.tokenizer.decode(stop_tokens(default_model)) == "<|im_end|>"
    with torch.no_grad():
        assert torch.isfinite(default_model(torch.tensor([row]))).all()
