"""Statements as token batches, and the one forward pass that serves both answers.

A batch holds one prompt and two answers per example. The prompt runs once; both answers
then run on its key-value cache, through which gradients flow. This gives the same losses and
gradients as two whole passes at a little over half the cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.chat import (
    chat_rows,
    completion_row,
    n_before_instruction,
    stack_rows,
    tokenizer_of,
)
from lpa_interp.fused import can_fuse
from lpa_interp.hooks import Intervention, perturb
from lpa_interp.model import HookedTransformer, HookPoint, new_cache, unembed
from lpa_interp.packing import Runs, run_packed
from lpa_interp.records import TraitStatement


@dataclass(frozen=True, slots=True)
class TraitBatch:
    """Prompts padded on the left, answers on the right.

    ``answers`` and ``answer_mask`` hold the desired answers first, then the undesired ones.
    ``statement_mask`` is 1 from the statement's first token to the end of the prompt.
    """

    prompt: Int[Tensor, "batch prompt_pos"]
    prompt_mask: Int[Tensor, "batch prompt_pos"]
    statement_mask: Int[Tensor, "batch prompt_pos"]
    answers: Int[Tensor, "two batch answer_pos"]
    answer_mask: Int[Tensor, "two batch answer_pos"]

    def desired_only(self) -> TraitBatch:
        """The same batch without the undesired answers."""
        return replace(self, answers=self.answers[:1], answer_mask=self.answer_mask[:1])

    def undesired_only(self) -> TraitBatch:
        """The same batch without the desired answers."""
        return replace(self, answers=self.answers[1:], answer_mask=self.answer_mask[1:])

    def attack_mask(
        self, where: Literal["prompt", "completion", "both"], system: bool = True
    ) -> Int[Tensor, "batch pos"]:
        """1 for every token that may be perturbed; pos runs over prompt then answer.

        ``system`` tells whether the tokens before the statement count: system prompt and the
        template around it.

        An answer position counts where either answer has a token there that predicts another:
        both answers are run under the same perturbation, as published, and the last token of
        an answer predicts nothing that is scored.
        """
        predicts = self.answer_mask.amax(0)[:, 1:]
        answer = torch.nn.functional.pad(predicts, (0, 1))
        prompt = self.prompt_mask if system else self.prompt_mask * self.statement_mask
        if where == "prompt":
            answer = torch.zeros_like(answer)
        if where == "completion":
            prompt = torch.zeros_like(prompt)
        return torch.cat([prompt, answer], dim=1)


def make_batch(
    model: HookedTransformer, statements: Sequence[TraitStatement], system: str | None
) -> TraitBatch:
    """Tokenizes statements as user turns and their answers as assistant turns."""
    pad, device = tokenizer_of(model).pad_token_id, model.cfg.device
    prompts = chat_rows(model, [statement.text for statement in statements], system)
    answers = [completion_row(model, s.desired) for s in statements]
    answers += [completion_row(model, s.undesired) for s in statements]
    prompt, prompt_mask = stack_rows(prompts, pad, device)
    statement_mask = prompt_mask * (prompt_mask.cumsum(1) > n_before_instruction(model, system))
    tokens, mask = stack_rows(answers, pad, device, side="right")
    shape = (2, len(statements), -1)
    return TraitBatch(prompt, prompt_mask, statement_mask, tokens.view(shape), mask.view(shape))


def answer_logits(
    model: HookedTransformer,
    batch: TraitBatch,
    deltas: Mapping[str, Float[Tensor, "batch pos d_model"]] | None = None,
) -> Float[Tensor, "answers batch answer_pos d_vocab"]:
    """Logits that predict each answer token, under perturbations at named hook points.

    The prompt runs once and both answers share it. Where `can_fuse` holds they follow it in one
    row, unseen by each other: hook points see prompt, first answer, second answer; where nothing
    is perturbed and no hook is open, examples share the start of their prompts as well.
    Elsewhere answers run on the prompt's key-value cache: hook points see the prompt first and
    the answers after it. Gradients flow through all.
    """
    deltas = deltas or {}
    # The last answer token predicts nothing that counts, so it is not run.
    tokens, mask = batch.answers[..., :-1], batch.answer_mask[..., :-1]
    n_positions = batch.prompt.shape[1] + tokens.shape[-1]
    if can_fuse(model, n_positions):
        prompts, masks = (batch.prompt, batch.prompt_mask), (tokens, mask)
        prompt, answers = run_packed(model, prompts, masks, deltas)
    else:
        prompt, answers = _cached(model, batch, tokens, mask, deltas)
    ends = prompt[:, -1:].expand(len(tokens), -1, -1, -1)
    resid = torch.cat([ends, answers], dim=2)
    return unembed(model, resid.flatten(0, 1), wide=True).unflatten(0, tokens.shape[:2])


def _cached(
    model: HookedTransformer,
    batch: TraitBatch,
    tokens: Int[Tensor, "answers batch some_pos"],
    mask: Int[Tensor, "answers batch some_pos"],
    deltas: Mapping[str, Tensor],
) -> Runs:
    """The prompt, and then all answers on its repeated key-value cache."""
    n_answers, n_batch, n_answer = tokens.shape
    n_prompt, n_layers = batch.prompt.shape[1], model.cfg.n_layers
    cache = new_cache(model, n_batch)
    with model.hooks(fwd_hooks=_shifts(deltas, slice(0, n_prompt), 1)):
        prompt = model(
            batch.prompt,
            attention_mask=batch.prompt_mask,
            stop_at_layer=n_layers,
            past_kv_cache=cache,
        )
    for entry in cache.entries:
        entry.past_keys = entry.past_keys.repeat(n_answers, 1, 1, 1)
        entry.past_values = entry.past_values.repeat(n_answers, 1, 1, 1)
    cache.previous_attention_mask = cache.previous_attention_mask.repeat(n_answers, 1)
    end = slice(n_prompt, n_prompt + n_answer)
    with model.hooks(fwd_hooks=_shifts(deltas, end, n_answers)):
        answer = model(
            tokens.flatten(0, 1),
            attention_mask=mask.flatten(0, 1),
            stop_at_layer=n_layers,
            past_kv_cache=cache,
        )
    return prompt, answer.unflatten(0, (n_answers, n_batch))


def _shifts(deltas: Mapping[str, Tensor], positions: slice, repeats: int) -> Intervention:
    return [
        (name, perturb(delta[:, positions].repeat(repeats, 1, 1))) for name, delta in deltas.items()
    ]


def first_non_finite(
    model: HookedTransformer, batch: TraitBatch, deltas: Mapping[str, Tensor] | None = None
) -> str:
    """The first hook point whose activation is NaN or infinite; says so if none is."""
    found: list[str] = []

    def read(activation: Tensor, hook: HookPoint) -> Tensor:
        if not found and not torch.isfinite(activation).all():
            found.append(str(hook.name))
        return activation

    def carries_numbers(name: str) -> bool:
        # Attention scores are -inf where the causal mask applies.
        return not name.endswith("hook_attn_scores")

    with torch.no_grad(), model.hooks(fwd_hooks=[(carries_numbers, read)]):
        answer_logits(model, batch, deltas)
    return found[0] if found else "no hook point (only the loss or its gradient)"
