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

from lpa_interp.chat import chat_rows, completion_row, stack_rows, tokenizer_of
from lpa_interp.hooks import Intervention, perturb
from lpa_interp.model import HookedTransformer, HookPoint, new_cache, unembed
from lpa_interp.records import TraitStatement


@dataclass(frozen=True, slots=True)
class TraitBatch:
    """Prompts padded on the left, answers on the right.

    ``answers`` and ``answer_mask`` hold the desired answers first, then the undesired ones.
    """

    prompt: Int[Tensor, "batch prompt_pos"]
    prompt_mask: Int[Tensor, "batch prompt_pos"]
    answers: Int[Tensor, "two batch answer_pos"]
    answer_mask: Int[Tensor, "two batch answer_pos"]

    def desired_only(self) -> TraitBatch:
        """The same batch without the undesired answers."""
        return replace(self, answers=self.answers[:1], answer_mask=self.answer_mask[:1])

    def attack_mask(
        self, where: Literal["prompt", "completion", "both"]
    ) -> Int[Tensor, "batch pos"]:
        """1 for every token that may be perturbed; pos runs over prompt then answer.

        An answer position counts where either answer has a token there that predicts another:
        both answers are run under the same perturbation, as published, and the last token of
        an answer predicts nothing that is scored.
        """
        predicts = self.answer_mask.amax(0)[:, 1:]
        answer = torch.nn.functional.pad(predicts, (0, 1))
        prompt = self.prompt_mask
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
    tokens, mask = stack_rows(answers, pad, device, side="right")
    shape = (2, len(statements), -1)
    return TraitBatch(prompt, prompt_mask, tokens.view(shape), mask.view(shape))


def answer_logits(
    model: HookedTransformer,
    batch: TraitBatch,
    deltas: Mapping[str, Float[Tensor, "batch pos d_model"]] | None = None,
) -> Float[Tensor, "answers batch answer_pos d_vocab"]:
    """Logits that predict each answer token, under perturbations at named hook points.

    The hook points see the prompt first and the answers after it, as in generation.
    """
    deltas = deltas or {}
    n_answers, n_batch, _ = batch.answers.shape
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
    # The last answer token predicts nothing that counts, so it is not run.
    tokens, mask = batch.answers[..., :-1].flatten(0, 1), batch.answer_mask[..., :-1].flatten(0, 1)
    end = slice(n_prompt, n_prompt + tokens.shape[1])
    with model.hooks(fwd_hooks=_shifts(deltas, end, n_answers)):
        answer = model(tokens, attention_mask=mask, stop_at_layer=n_layers, past_kv_cache=cache)
    resid = torch.cat([prompt[:, -1:].repeat(n_answers, 1, 1), answer], dim=1)
    return unembed(model, resid).unflatten(0, (n_answers, n_batch))


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
