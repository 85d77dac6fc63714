"""From requests to token rows: chat template, BOS, prefill, left padding.

A row is a plain list of token ids with exactly one BOS at its start where the model's
tokenizer or template puts one. Rows are padded on the left only when they are stacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from jinja2 import TemplateError
from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.model import HookedTransformer

PLAIN_TEMPLATE = "User: {text}\n\nAssistant:"
"""Used where a tokenizer has no chat template (base models)."""

Row = list[int]


def tokenizer_of(model: HookedTransformer) -> Any:
    """The model's tokenizer.

    Raises:
        InputError: The model has none.
    """
    if model.tokenizer is None:
        raise InputError("model", "has no tokenizer", "set model.tokenizer, or use load_model")
    return model.tokenizer


def format_chat(
    model: HookedTransformer,
    text: str,
    system: str | None = None,
    prefill: str = "",
    turns: Sequence[tuple[str, str]] = (),
) -> str:
    """The prompt as text, ending where the assistant's answer begins (after ``prefill``).

    Without ``system`` the template's own default system message applies, if it has one.
    ``turns`` are earlier exchanges: the user's words and the assistant's answer.
    """
    tokenizer = tokenizer_of(model)
    if not tokenizer.chat_template:
        earlier = [PLAIN_TEMPLATE.format(text=user) + f" {answer}" for user, answer in turns]
        parts = [*([system] if system else []), *earlier, PLAIN_TEMPLATE.format(text=text)]
        return "\n\n".join(parts) + prefill
    messages = [{"role": "system", "content": system}] if system else []
    for user, answer in turns:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": text})
    try:
        rendered = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:  # some templates take no system message
        raise InputError("chat template", f"refuses the messages: {error}") from error
    return str(rendered) + prefill


def tokenize(model: HookedTransformer, text: str) -> Row:
    """Token ids of formatted text, with one BOS where the tokenizer's convention has one."""
    tokenizer = tokenizer_of(model)
    row = list(tokenizer(text, add_special_tokens=False).input_ids)
    if model.cfg.default_prepend_bos and row[:1] != [tokenizer.bos_token_id]:
        row.insert(0, tokenizer.bos_token_id)
    return row


def chat_rows(
    model: HookedTransformer, texts: Sequence[str], system: str | None = None, prefill: str = ""
) -> list[Row]:
    """Formats and tokenizes requests."""
    return [tokenize(model, format_chat(model, text, system, prefill)) for text in texts]


def completion_row(model: HookedTransformer, text: str, end: bool = True) -> Row:
    """Token ids of an assistant's answer, closed by the end-of-turn token if ``end``."""
    tokenizer = tokenizer_of(model)
    lead = "" if tokenizer.chat_template else " "
    row = list(tokenizer(lead + text, add_special_tokens=False).input_ids)
    return [*row, end_of_turn(model)] if end else row


def end_of_turn(model: HookedTransformer) -> int:
    """The token with which the chat template closes an assistant's answer.

    Some tokenizers name another end-of-sequence token (Gemma closes with ``<end_of_turn>``,
    its own is ``<eos>``); theirs is taken only where the template closes with no special token.
    """
    tokenizer = tokenizer_of(model)
    if tokenizer.chat_template:
        answer = "An answer"
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
        tail = tokenizer(rendered.rpartition(answer)[2], add_special_tokens=False).input_ids
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        for token in tail:
            if token in special:
                return int(token)
    return int(tokenizer.eos_token_id)


def stop_tokens(model: HookedTransformer) -> list[int]:
    """Tokens that end a completion: end of turn and end of sequence."""
    return sorted({end_of_turn(model), int(tokenizer_of(model).eos_token_id)})


def post_instruction_row(model: HookedTransformer) -> Row:
    """The template's tokens after the instruction: where Arditi et al. read candidates.

    Tokens are compared from the end, so a token that merges with the instruction is left out.
    """
    first, second = (chat_rows(model, [text])[0] for text in ("Hello.", "Name a colour"))
    shared = 0
    while first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return first[len(first) - shared :]


def n_before_instruction(model: HookedTransformer, system: str | None = None) -> int:
    """Number of tokens before the instruction: BOS, system prompt and template."""
    first, second = (chat_rows(model, [text], system)[0] for text in ("Hello.", "Name a colour"))
    return next(place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


def stack_rows(
    rows: Sequence[Row], pad: int, device: torch.device | str | None, side: str = "left"
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Stacks rows into tokens and a mask (1 for tokens, 0 for padding)."""
    width = max(len(row) for row in rows)
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return tokens.to(device), mask.to(device)


def row_batches(
    model: HookedTransformer, rows: Sequence[Row], batch_size: int
) -> Iterator[tuple[list[int], Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]]:
    """Batches of rows of similar length: their indices, left-padded tokens and mask."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [rows[index] for index in chosen]
        yield chosen, *stack_rows(batch, tokenizer_of(model).pad_token_id, model.cfg.device)
