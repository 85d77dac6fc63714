"""Perplexity of plain text: the check that training leaves the language model as it was."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import tokenizer_of
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.model import HookedTransformer, unembed
from lpa_interp.stats import Array, Interval, perplexity_interval

BLOCK_TOKENS = 64
"""Tokens whose mean is one observation: neighbouring tokens are not independent."""
WINDOW_TOKENS = 512
_UNEMBED_TOKENS = 128


def perplexity(
    model: HookedTransformer,
    text: str,
    n_tokens: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Interval:
    """Exp of the mean next-token negative log-likelihood, with a bootstrap interval.

    The interval resamples blocks of `BLOCK_TOKENS` tokens; n counts the blocks.

    Raises:
        InputError: The text is too short for two blocks.
        NumericalError: A loss is NaN or infinite.
    """
    return perplexity_interval(block_losses(model, text, n_tokens, progress), seed)


def block_losses(
    model: HookedTransformer,
    text: str,
    n_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Mean next-token loss of each block of the text's beginning, nats per token.

    The text is read in windows of at most 512 tokens that overlap by one, so every token but
    the first is predicted once; where the tokenizer's convention has a BOS each window starts
    with one. Predicted are the most whole blocks that fit into ``n_tokens`` and the text.
    Blocks hold `BLOCK_TOKENS` tokens, fewer where that would leave less than eight blocks.

    Args:
        model: Any model with a tokenizer; open hooks and adapters take part.
        text: Plain text.
        n_tokens: Tokens to predict at most.
        progress: Called with the tokens done and their number after each window.

    Raises:
        InputError: The text is too short for two blocks.
        NumericalError: A loss is NaN or infinite.
    """
    tokenizer = tokenizer_of(model)
    # Only the beginning is tokenized: no tokenizer averages 16 characters a token on prose.
    row = list(tokenizer(text[: 16 * n_tokens + 64], add_special_tokens=False).input_ids)
    if model.cfg.default_prepend_bos:
        row.insert(0, tokenizer.bos_token_id)
    available = min(n_tokens, len(row) - 1)
    size = max(1, min(BLOCK_TOKENS, available // 8))
    n_blocks = available // size
    if n_blocks < 2:
        raise InputError("text", f"has {available} tokens to predict", "2 or more")
    losses = _token_losses(model, row[: n_blocks * size + 1], progress)
    if not torch.isfinite(losses).all():
        raise NumericalError("the loss of the perplexity text is NaN or infinite")
    means: Array = losses.double().reshape(n_blocks, size).mean(dim=1).numpy()
    return means


def _token_losses(
    model: HookedTransformer, row: list[int], progress: Callable[[int, int], None] | None
) -> Float[Tensor, " n"]:
    """Loss of each token of the row but the first, float32 on the CPU."""
    step = min(WINDOW_TOKENS, model.cfg.n_ctx) - 1
    bos = row[0] if model.cfg.default_prepend_bos else None
    losses = []
    with torch.no_grad(), parametrize.cached():
        for start in range(0, len(row) - 1, step):
            window = row[start : start + step + 1]
            targets = torch.tensor(window[1:], device=model.cfg.device)
            if bos is not None:
                # Each window starts with the BOS in place of the token before it.
                window = [bos, *window[1:]]
            tokens = torch.tensor([window[:-1]], device=model.cfg.device)
            # Without a mask TransformerLens would hide tokens that equal the padding token.
            mask = torch.ones_like(tokens)
            resid = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)[0]
            losses.append(_losses(model, resid, targets))
            if progress is not None:
                progress(start + len(targets), len(row) - 1)
    return torch.cat(losses)


def _losses(
    model: HookedTransformer, resid: Float[Tensor, "pos d_model"], targets: Tensor
) -> Float[Tensor, " pos"]:
    """Cross entropy in slices of positions: the logits of a window would fill the memory."""
    losses = []
    for start in range(0, len(targets), _UNEMBED_TOKENS):
        part = slice(start, start + _UNEMBED_TOKENS)
        logits = unembed(model, resid[None, part])[0].float()
        losses.append(torch.nn.functional.cross_entropy(logits, targets[part], reduction="none"))
    return torch.cat(losses).cpu()
