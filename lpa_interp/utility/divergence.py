"""How far a model has moved from its base on prompts: KL divergence of what each would say next.

The base model writes the first tokens of its own greedy answer to each prompt; both models then
read prompt and answer, and their next-token distributions are compared at every answer token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row, row_batches, stop_tokens
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.model import HookedTransformer, new_cache, unembed

MAX_BYTES = 4 << 30
"""Of the reference that is kept in memory."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the base model would say: for each prompt its greedy answer and how it got there.

    ``answers`` end with the token that ends the turn where it comes within the first tokens.
    ``log_probs`` are of the whole vocabulary at each answer token, nats, float32 on the CPU.
    """

    rows: tuple[Row, ...]
    answers: tuple[Row, ...]
    log_probs: tuple[Float[Tensor, "answer d_vocab"], ...]


def reference_log_probs(
    model: HookedTransformer,
    rows: Sequence[Row],
    n_tokens: int = 8,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Reference:
    """The base model's greedy answers to prompts and its distribution at each of their tokens.

    Kept are 4 bytes for each token and word of the vocabulary: 100 prompts, 8 tokens and a
    vocabulary of 128,000 take 0.4 GB.

    Args:
        model: The base model; open hooks and adapters take part.
        rows: Prompts as token ids, from `lpa_interp.chat.chat_rows`.
        n_tokens: Answer tokens per prompt at most.
        batch_size: Prompts per forward pass.
        progress: Called with the prompts done and their number after each batch.

    Raises:
        InputError: A prompt is empty or does not fit into the context with its answer, or the
            reference would take more than `MAX_BYTES`.
        NumericalError: A log-probability is NaN.
    """
    _check(model, rows, n_tokens)
    answers: list[Row] = [[] for _ in rows]
    kept: list[Tensor] = [torch.empty(0)] * len(rows)
    stops, done = set(stop_tokens(model)), 0
    with torch.no_grad(), parametrize.cached():
        for chosen, tokens, mask in row_batches(model, rows, batch_size):
            written, log_probs = _greedy(model, tokens, mask, n_tokens, stops)
            for index, answer, values in zip(chosen, written.tolist(), log_probs, strict=True):
                ends = (place for place, token in enumerate(answer, start=1) if token in stops)
                end = next(ends, len(answer))
                answers[index], kept[index] = answer[:end], values[:end].clone()
            done += len(chosen)
            if progress is not None:
                progress(done, len(rows))
    return Reference(tuple(list(row) for row in rows), tuple(answers), tuple(kept))


def kl_to_base(
    model: HookedTransformer,
    reference: Reference,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """KL(base || model) of each prompt, nats per token, in the order of the prompts.

    The mean over the answer's tokens of sum p_base (log p_base - log p_model) over the
    vocabulary, in float64. The base model comes first: a word that the base model would say and
    this model would not costs much. Of a model with itself it is 0 to rounding, which can be
    below 0.

    Args:
        model: With the vocabulary of the base model; open hooks and adapters take part.
        reference: Of the base model, from `reference_log_probs`.
        batch_size: Prompts per forward pass.
        progress: Called with the prompts done and their number after each batch.

    Raises:
        InputError: The model has another vocabulary.
        NumericalError: A divergence is NaN or infinite.
    """
    whole = [
        [*row, *answer[:-1]] for row, answer in zip(reference.rows, reference.answers, strict=True)
    ]
    found, done = [0.0] * len(whole), 0
    with torch.no_grad(), parametrize.cached():
        for chosen, tokens, mask in row_batches(model, whole, batch_size):
            resid = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
            for place, index in enumerate(chosen):
                base = reference.log_probs[index]
                logits = unembed(model, resid[place : place + 1, -len(base) :], wide=True)[0]
                found[index] = _mean_kl(base, logits)
            done += len(chosen)
            if progress is not None:
                progress(done, len(whole))
    return found


def _mean_kl(base: Float[Tensor, "answer d_vocab"], logits: Float[Tensor, "answer d_out"]) -> float:
    if logits.shape != base.shape:
        sizes = f"{logits.shape[-1]} tokens, not the {base.shape[-1]} of its base"
        raise InputError("model", f"has a vocabulary of {sizes}")
    # Normalised again: what rounding to float32 moved all of a distribution by would count.
    log_p, log_q = (each.cpu().double().log_softmax(-1) for each in (base, logits))
    # A token that the base model rules out (log p of -inf) adds nothing, as p log p goes to 0.
    terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
    value = float(terms.sum(-1).mean())
    if value != value or value in (float("inf"), float("-inf")):
        raise NumericalError("the divergence from the base model is NaN or infinite")
    return value


def _greedy(
    model: HookedTransformer, tokens: Tensor, mask: Tensor, n_tokens: int, stops: set[int]
) -> tuple[Tensor, Float[Tensor, "batch answer d_vocab"]]:
    """Greedy tokens, and the log-probabilities of the vocabulary at each, on the CPU."""
    cache = new_cache(model, len(tokens))
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    stop_ids = torch.tensor(sorted(stops), device=tokens.device)
    written: list[Tensor] = []
    kept: list[Tensor] = []
    while len(written) < n_tokens and not ended.all():
        resid = model(
            tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers, past_kv_cache=cache
        )
        log_probs = unembed(model, resid[:, -1:], wide=True)[:, 0].float().log_softmax(-1)
        if log_probs.isnan().any():
            raise NumericalError("the logits of the base model are NaN or infinite")
        chosen = log_probs.argmax(-1)
        ended = ended | torch.isin(chosen, stop_ids)
        written.append(chosen)
        kept.append(log_probs.cpu())
        tokens, mask = chosen[:, None], torch.ones_like(chosen)[:, None]
    return torch.stack(written, dim=1).cpu(), torch.stack(kept, dim=1)


def _check(model: HookedTransformer, rows: Sequence[Row], n_tokens: int) -> None:
    if n_tokens < 1:
        raise InputError("n_tokens", f"{n_tokens} is not allowed", "1 or more")
    room = model.cfg.n_ctx - n_tokens + 1
    for index, row in enumerate(rows):
        if not 1 <= len(row) <= room:
            raise InputError(f"prompt {index}", f"has {len(row)} tokens", f"1 to {room}")
    size = 4 * len(rows) * n_tokens * model.cfg.d_vocab_out
    if size > MAX_BYTES:
        needed = f"of {len(rows)} prompts and {n_tokens} tokens takes {size / (1 << 30):.1f} GiB"
        allowed = f"{MAX_BYTES >> 30} GiB: fewer prompts or tokens"
        raise InputError("reference", needed, allowed)
