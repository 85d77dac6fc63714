"""One pass over prompts that gives the log-probabilities of several answers to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lpa_interp.fused import OUTER_HOOKS, can_fuse, fused_resid
from lpa_interp.hooks import Intervention, has_open_hooks
from lpa_interp.model import HookedTransformer, new_cache, unembed
from lpa_interp.packing import sees

_UNEMBED_POSITIONS = 256
"""Logits of a large vocabulary at every position would fill the memory."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to each prompt of a batch, padded on the right; ``mask`` is 1 for tokens."""

    tokens: Int[Tensor, "batch answer_pos"]
    mask: Int[Tensor, "batch answer_pos"]


Read = tuple[Float[Tensor, "batch d_vocab"], list[Float[Tensor, "batch answer_pos"]]]
"""Logits of the first answer token, and for each answer log p of its tokens, 0 at padding."""


def read_answers(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    answers: Sequence[Answer],
    hooks: Intervention,
) -> Read:
    """First-token logits and log p (nats, float32) of each answer's tokens after its prompt.

    Args:
        model: Any model; hooks that are open on it see the prompt, then single tokens.
        tokens: Prompts, padded on the left.
        mask: 1 for tokens.
        answers: Each holds one answer per prompt; their order changes nothing.
        hooks: See the prompt, then single tokens of the answers, as in generation.
    """
    n_positions = tokens.shape[1] + sum(answer.tokens.shape[1] - 1 for answer in answers)
    packs = answers and not has_open_hooks(model) and _are_outer(model, hooks)
    run = _packed if packs and can_fuse(model, n_positions) else _stepped
    return run(model, tokens, mask, answers, hooks)


def _are_outer(model: HookedTransformer, hooks: Intervention) -> bool:
    """Whether the hooks are on points that the fused pass goes through."""
    names = [
        name
        for wanted, _ in hooks
        for name in ([wanted] if isinstance(wanted, str) else filter(wanted, model.hook_dict))
    ]
    return all(
        name.rsplit(".", 1)[-1] in OUTER_HOOKS and name.count(".") in (0, 2) for name in names
    )


def _packed(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    answers: Sequence[Answer],
    hooks: Intervention,
) -> Read:
    """One pass over rows of the prompt and all answers, which do not see each other."""
    n_prompt = tokens.shape[1]
    # The last token of an answer predicts nothing that counts, so it is not run.
    row = torch.cat([tokens, *(answer.tokens[:, :-1] for answer in answers)], dim=1)
    real = torch.cat([mask, *(answer.mask[:, :-1] for answer in answers)], dim=1).bool()
    widths = [answer.tokens.shape[1] - 1 for answer in answers]
    positions, allowed = _layout(mask, real, widths)
    apart = [(name, _part_by_part(function, n_prompt)) for name, function in hooks]
    with model.hooks(fwd_hooks=apart):
        resid = fused_resid(model, row, positions, allowed)
    first = unembed(model, resid[:, n_prompt - 1 : n_prompt], wide=True)[:, 0]
    begins, log_probs = first.log_softmax(-1), []
    for answer, after in zip(answers, resid[:, n_prompt:].split(widths, dim=1), strict=True):
        found = torch.zeros(answer.tokens.shape, dtype=first.dtype, device=first.device)
        found[:, 0] = begins.gather(-1, answer.tokens[:, :1])[:, 0]
        counts = answer.mask[:, 1:].bool()
        found[:, 1:][counts] = _label_log_probs(model, after[counts], answer.tokens[:, 1:][counts])
        log_probs.append(found)
    return first, log_probs


def _layout(
    mask: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch row"], widths: Sequence[int]
) -> tuple[Int[Tensor, "batch row"], Bool[Tensor, "batch row row"]]:
    """Positions of a packed row's tokens in their own sequence, and who may attend to whom."""
    n_prompt, device = mask.shape[1], mask.device
    prompt = (mask.cumsum(1) - 1).clamp(min=0)
    ends = mask.sum(1, keepdim=True)
    places = [ends + torch.arange(width, device=device) for width in widths]
    parts = [-1] * n_prompt + [part for part, width in enumerate(widths) for _ in range(width)]
    allowed = sees(torch.tensor(parts, device=device)).tril() & real[:, None, :]
    return torch.cat([prompt, *places], dim=1), allowed


def _part_by_part(function: Callable[..., Any], n_prompt: int) -> Callable[..., Tensor]:
    """A hook function given the prompt, then single tokens, whatever the row holds."""

    def hook_function(activation: Tensor, hook: Any = None) -> Tensor:
        parts = [activation[:, :n_prompt], *activation[:, n_prompt:].split(1, dim=1)]
        changed = [function(part, hook=hook) for part in parts]
        kept = [old if new is None else new for old, new in zip(parts, changed, strict=True)]
        return torch.cat(kept, dim=1)

    return hook_function


def _label_log_probs(
    model: HookedTransformer, resid: Float[Tensor, "n d_model"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    found = [
        unembed(model, some[None], wide=True)[0].log_softmax(-1).gather(-1, label[:, None])[:, 0]
        for some, label in zip(
            resid.split(_UNEMBED_POSITIONS), labels.split(_UNEMBED_POSITIONS), strict=True
        )
    ]
    return torch.cat(found)


def _stepped(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    answers: Sequence[Answer],
    hooks: Intervention,
) -> Read:
    """The prompt, then each answer on a copy of its cache; token by token where hooks are open."""
    cache, log_probs = new_cache(model, len(tokens)), []
    by_token = bool(hooks) or has_open_hooks(model)
    with model.hooks(fwd_hooks=list(hooks)):
        first = _logits(model, tokens, mask, 1, cache)[:, -1]
        for answer in answers:
            # Appending to a cache makes new tensors, so copies may share those of the prompt.
            branch = replace(cache, entries=[replace(entry) for entry in cache.entries])
            width = answer.tokens.shape[1] - 1
            size = 1 if by_token else max(width, 1)
            logits = [first[:, None]]
            for start in range(0, width, size):
                step = slice(start, min(start + size, width))
                some, real = answer.tokens[:, step], answer.mask[:, step]
                logits.append(_logits(model, some, real, some.shape[1], branch))
            found = torch.cat(logits, dim=1).log_softmax(-1)
            found = found.gather(-1, answer.tokens[..., None])[..., 0]
            log_probs.append(found.masked_fill(answer.mask == 0, 0.0))
    return first, log_probs


def _logits(
    model: HookedTransformer, tokens: Tensor, mask: Tensor, n_last: int, cache: Any
) -> Float[Tensor, "batch n_last d_vocab"]:
    resid = model(
        tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers, past_kv_cache=cache
    )
    return unembed(model, resid[:, -n_last:], wide=True)
