"""Greedy completions: by transformers where nothing intervenes, by HookedTransformer elsewhere.

HookedTransformer generates at a fraction of the speed of ``transformers.generate``. Without
interventions both give the same tokens, so each model loaded from Hugging Face weights gets a
*twin*: the Hugging Face model with the same weights, adapter included, made at the first use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row, row_batches, stop_tokens, tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.hooks import Intervention, has_open_hooks
from lpa_interp.layouts import write_weights
from lpa_interp.lora import LowRankUpdate
from lpa_interp.model import (
    HookedTransformer,
    last_logits,
    load_hugging_face,
    new_cache,
    source_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LARGEST_DISTANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Of next-token distributions (total variation) between a model and a usable twin. Rounding in
bfloat16 moves them by a few hundredths; a weight that differs moves them by far more."""


@dataclass(slots=True)
class _Twin:
    hf_model: PreTrainedModel | None
    fingerprint: tuple[Any, ...]


_TWINS: WeakKeyDictionary[HookedTransformer, _Twin] = WeakKeyDictionary()

RowHooks = Callable[[Sequence[int], Int[Tensor, "batch pos"]], Intervention]
"""Hooks for one batch, from the indices of its rows and its mask (left-padded, 1 for tokens)."""


def generate(
    model: HookedTransformer,
    rows: Sequence[Row],
    max_new_tokens: int,
    batch_size: int = 16,
    hooks: Intervention | RowHooks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Greedy completions of token rows, without special tokens, in the order of the rows.

    A completion ends before the first end-of-sequence or end-of-turn token. An attached adapter
    takes part unless it is disabled. Hooks see the whole prompt once, then one token at a time.

    Args:
        model: Any model; one from `load_model` is several times faster where no hook is open.
        rows: Prompts as token ids, from `chat_rows`.
        max_new_tokens: Tokens per completion at most.
        batch_size: Rows per forward pass.
        hooks: ``(hook_name, hook_function)`` pairs for all rows, or a function that gives those
            of a batch; hooks that the caller opened stay open.
        progress: Called with the completions done and their number after each batch.

    Raises:
        InputError: A row is empty or longer than the context allows.
    """
    _check_lengths(model, rows, max_new_tokens)
    twin = None if hooks or has_open_hooks(model) or not rows else _twin_of(model, rows[0])
    stops = stop_tokens(model)
    texts = [""] * len(rows)
    done = 0
    with torch.no_grad(), parametrize.cached():
        for chosen, tokens, mask in row_batches(model, rows, batch_size):
            if twin is None:
                opened = hooks(chosen, mask) if callable(hooks) else list(hooks or [])
                with model.hooks(fwd_hooks=opened):
                    new = _greedy(model, tokens, mask, max_new_tokens, stops)
            else:
                new = _greedy_twin(model, twin, tokens, mask, max_new_tokens, stops)
            for index, ids in zip(chosen, new.tolist(), strict=True):
                texts[index] = _decode(model, ids, stops)
            done += len(chosen)
            if progress is not None:
                progress(done, len(rows))
    return texts


def drop_twin(model: HookedTransformer) -> None:
    """Frees the Hugging Face model kept for `generate`; the next call makes it again."""
    _TWINS.pop(model, None)


def _check_lengths(model: HookedTransformer, rows: Sequence[Row], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError("max_new_tokens", f"{max_new_tokens} is not allowed", "1 or more")
    room = model.cfg.n_ctx - max_new_tokens
    for index, row in enumerate(rows):
        if not 1 <= len(row) <= room:
            raise InputError(
                f"prompt {index}",
                f"has {len(row)} tokens",
                f"1 to {room}: the model's context holds {model.cfg.n_ctx} and "
                f"{max_new_tokens} are to be generated",
            )


def _greedy(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    max_new_tokens: int,
    stops: Sequence[int],
) -> Int[Tensor, "batch new"]:
    """Greedy tokens by HookedTransformer; padding after an example's end."""
    cache = new_cache(model, len(tokens))
    ended: Bool[Tensor, " batch"] = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    stop_ids = torch.tensor(stops, device=tokens.device)
    pad = tokenizer_of(model).pad_token_id
    new: list[Tensor] = []
    while len(new) < max_new_tokens and not ended.all():
        chosen = last_logits(model, tokens, mask, cache=cache)[:, -1].argmax(dim=-1)
        chosen = chosen.masked_fill(ended, pad)
        ended = ended | torch.isin(chosen, stop_ids)
        new.append(chosen)
        tokens, mask = chosen[:, None], torch.ones_like(chosen)[:, None]
    return torch.stack(new, dim=1)


def _greedy_twin(
    model: HookedTransformer,
    twin: PreTrainedModel,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    max_new_tokens: int,
    stops: Sequence[int],
) -> Int[Tensor, "batch new"]:
    """The same tokens by ``transformers.generate``."""
    from transformers import GenerationConfig

    # The model's own generation settings may sample or penalise repetition.
    settings: Any = GenerationConfig  # its constructor has no types
    twin.generation_config = settings(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=tokenizer_of(model).pad_token_id,
    )
    write: Any = twin.generate
    generated: Tensor = write(input_ids=tokens, attention_mask=mask)
    return generated[:, tokens.shape[1] :]


def _decode(model: HookedTransformer, ids: list[int], stops: Sequence[int]) -> str:
    end = next((index for index, token in enumerate(ids) if token in stops), len(ids))
    return str(tokenizer_of(model).decode(ids[:end], skip_special_tokens=True))


def _twin_of(model: HookedTransformer, probe: Row) -> PreTrainedModel | None:
    """The Hugging Face model with this model's present weights; None where there is none."""
    fingerprint = _fingerprint(model)
    kept = _TWINS.get(model)
    if kept is None or kept.fingerprint != fingerprint:
        hf_model = kept.hf_model if kept is not None and kept.hf_model is not None else _load(model)
        if hf_model is not None:
            write_weights(model, hf_model)
            hf_model = hf_model if _agree(model, hf_model, probe) else None
        _TWINS[model] = kept = _Twin(hf_model, fingerprint)
    return kept.hf_model


def _load(model: HookedTransformer) -> PreTrainedModel | None:
    source = source_of(model)
    if source is None:
        return None
    try:
        dtype = str(model.cfg.dtype).removeprefix("torch.")
        hf_model = load_hugging_face(source.location, dtype)
        move: Any = hf_model.requires_grad_(False).to
        moved: PreTrainedModel = move(model.cfg.device)
        return moved
    except (OSError, ValueError, torch.OutOfMemoryError):
        return None  # the hooked path needs none


def _fingerprint(model: HookedTransformer) -> tuple[Any, ...]:
    """Changes when any weight changes or an adapter is switched on or off."""
    sums = torch.stack([p.detach().sum(dtype=torch.float32) for p in model.parameters()])
    versions = tuple(parameter._version for parameter in model.parameters())
    updates = (module for module in model.modules() if isinstance(module, LowRankUpdate))
    return versions, tuple(sums.tolist()), tuple(update.enabled for update in updates)


def _agree(model: HookedTransformer, hf_model: PreTrainedModel, probe: Row) -> bool:
    """Whether both predict the same next token: a twin with other weights is of no use."""
    tokens = torch.tensor([probe], device=model.cfg.device)
    with torch.no_grad():
        ours = last_logits(model, tokens, torch.ones_like(tokens))[0, -1].float().softmax(-1)
        theirs = hf_model(tokens).logits[0, -1].float().softmax(-1)
    distance = 0.5 * (ours - theirs).abs().sum().item()
    return bool(distance <= _LARGEST_DISTANCE[model.cfg.dtype])
