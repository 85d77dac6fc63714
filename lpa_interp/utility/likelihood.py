"""Log-likelihoods of continuations: what is shared by the choices of an item runs once.

Tokens are those of the LM Evaluation Harness (``_encode_pair``). All choices of an item lie in
one row: the tokens they share, then the rest of each, which sees what is shared and itself.
Where the fused pass does not hold for a model, every distinct choice is a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.chat import Row, stack_rows, tokenize, tokenizer_of
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.fused import can_fuse, fused_resid
from lpa_interp.model import HookedTransformer, unembed
from lpa_interp.packing import sees
from lpa_interp.utility.task import Item

MAX_POSITIONS = 8192
"""Positions of one forward pass at most, where it holds more than one row."""
CPU_POSITIONS = 512
"""The same on a CPU, which gains nothing from wider passes: their activations leave its caches."""
_UNEMBED_TOKENS = 128
_SHARED, _PADDING = -1, -2


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a continuation given its context.

    ``log_prob`` is the sum over its ``n_tokens`` tokens, nats. ``is_greedy`` tells whether each
    of them is the likeliest one after what stands before it.
    """

    log_prob: float
    is_greedy: bool
    n_tokens: int


def likelihoods(
    model: HookedTransformer,
    items: Sequence[Item],
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[Likelihood, ...]]:
    """The likelihood of every continuation of each item, in the order of items and choices.

    Args:
        model: Any model with a tokenizer; open hooks and adapters take part. A hook on the
            residual stream sees the choices of an item in one row, after what they share.
        items: From `load_task` or elsewhere.
        batch_size: Rows of a forward pass at most; long rows take fewer, see `MAX_POSITIONS`.
        progress: Called with the rows done and their number after each pass.

    Raises:
        InputError: A continuation has no tokens of its own, or does not fit into the context
            of the model with what stands before it.
        NumericalError: A log-likelihood is NaN or infinite.
    """
    encoded = [[encode_pair(model, *pair) for pair in item.pairs] for item in items]
    _require_fit(model, items, encoded)
    packs = [_pack(index, list(enumerate(pairs))) for index, pairs in enumerate(encoded)]
    widest = max((len(pack.tokens) for pack in packs), default=0)
    fused = can_fuse(model, widest)
    if not fused:
        packs = [pack for index, pairs in enumerate(encoded) for pack in _apart(index, pairs)]
    found: list[list[Likelihood | None]] = [[None] * len(pairs) for pairs in encoded]
    done = 0
    with torch.no_grad(), parametrize.cached():
        for batch in _batches(packs, batch_size, _most_positions(model)):
            resid = _packed_resid(model, batch) if fused else _plain_resid(model, batch)
            for (item, choice), likelihood in _scored(model, batch, resid):
                found[item][choice] = likelihood
            done += len(batch)
            if progress is not None:
                progress(done, len(packs))
    return [tuple(each for each in row if each is not None) for row in found]


def encode_pair(model: HookedTransformer, context: str, continuation: str) -> tuple[Row, Row]:
    """Tokens of a context and of its continuation, as the LM Evaluation Harness splits them.

    Spaces at the end of the context go to the continuation. Both are encoded together, and the
    continuation has the tokens beyond as many as the context has alone.

    Source: ``TemplateLM._encode_pair`` of lm-eval 0.4.13.

    Raises:
        InputError: The context is empty, or the continuation has no tokens beyond it.
    """
    kept = context.rstrip()
    if not kept:
        raise InputError(f"context {context!r:.40}", "is empty", "a text to continue")
    start = tokenize(model, kept)
    rest = tokenize(model, context + continuation)[len(start) :]
    if not rest:
        raise InputError(f"continuation {continuation!r:.40}", "has no tokens of its own")
    return start, rest


@dataclass(frozen=True, slots=True)
class _Pack:
    """Choices of one item in one row.

    ``part`` tells for each token whose it is: `_SHARED`, or the number of its choice.
    ``positions`` is its place in its own sequence. Each scored token has a ``place``, the
    position in the row that predicts it, a ``target`` and an ``owner``: item and choice.
    """

    tokens: Row
    positions: list[int]
    part: list[int]
    places: list[int]
    targets: Row
    owners: list[tuple[int, int]]


def _pack(item: int, choices: Sequence[tuple[int, tuple[Row, Row]]]) -> _Pack:
    """One row of what the choices share, which may reach into them, and the rest of each.

    The last token of a choice predicts nothing that is scored, so it is not run.
    """
    inputs = [[*context, *rest][:-1] for _, (context, rest) in choices]
    n_shared = 0
    for column in zip(*inputs, strict=False):
        if len(set(column)) > 1:
            break
        n_shared += 1
    pack = _Pack(
        tokens=inputs[0][:n_shared],
        positions=list(range(n_shared)),
        part=[_SHARED] * n_shared,
        places=[],
        targets=[],
        owners=[],
    )
    for (choice, (context, rest)), row in zip(choices, inputs, strict=True):
        offset = len(pack.tokens) - n_shared
        for place, target in enumerate(rest, start=len(context) - 1):
            pack.places.append(place if place < n_shared else place + offset)
            pack.targets.append(target)
            pack.owners.append((item, choice))
        pack.tokens.extend(row[n_shared:])
        pack.positions.extend(range(n_shared, len(row)))
        pack.part.extend([choice] * (len(row) - n_shared))
    return pack


def _apart(item: int, pairs: Sequence[tuple[Row, Row]]) -> list[_Pack]:
    """A row for each input that differs: choices of one token share theirs."""
    groups: dict[tuple[int, ...], list[tuple[int, tuple[Row, Row]]]] = {}
    for choice, (context, rest) in enumerate(pairs):
        groups.setdefault(tuple([*context, *rest][:-1]), []).append((choice, (context, rest)))
    return [_pack(item, group) for group in groups.values()]


def _most_positions(model: HookedTransformer) -> int:
    on_cpu = torch.device(model.cfg.device or "cpu").type == "cpu"
    return CPU_POSITIONS if on_cpu else MAX_POSITIONS


def _batches(packs: Sequence[_Pack], batch_size: int, most_positions: int) -> Iterator[list[_Pack]]:
    """Rows of similar length, shortest first."""
    batch: list[_Pack] = []
    for pack in sorted(packs, key=lambda pack: len(pack.tokens)):
        full = len(batch) == batch_size
        if batch and (full or (len(batch) + 1) * len(pack.tokens) > most_positions):
            yield batch
            batch = []
        batch.append(pack)
    if batch:
        yield batch


def _packed_resid(
    model: HookedTransformer, batch: Sequence[_Pack]
) -> Float[Tensor, "batch pos d_model"]:
    """The last residual stream of rows that hold several choices, padded on the right."""
    device = model.cfg.device
    tokens = _padded([pack.tokens for pack in batch], tokenizer_of(model).pad_token_id, device)
    positions = _padded([pack.positions for pack in batch], 0, device)
    part = _padded([pack.part for pack in batch], _PADDING, device)
    return fused_resid(model, tokens, positions, sees(part).tril())


def _plain_resid(
    model: HookedTransformer, batch: Sequence[_Pack]
) -> Float[Tensor, "batch pos d_model"]:
    """The same of rows that are plain sequences, by TransformerLens' own pass."""
    rows, pad = [pack.tokens for pack in batch], tokenizer_of(model).pad_token_id
    tokens, mask = stack_rows(rows, pad, model.cfg.device)
    resid = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
    width = tokens.shape[1]  # turned back to padding on the right, where places count from 0
    return torch.stack(
        [each.roll(len(row) - width, 0) for row, each in zip(rows, resid, strict=True)]
    )


def _padded(rows: Sequence[Row], fill: int, device: torch.device | str | None) -> Tensor:
    return stack_rows(rows, fill, device, side="right")[0]


def _scored(
    model: HookedTransformer, batch: Sequence[_Pack], resid: Float[Tensor, "batch pos d_model"]
) -> Iterator[tuple[tuple[int, int], Likelihood]]:
    """Item, choice and likelihood of every continuation in the batch."""
    rows = [row for row, pack in enumerate(batch) for _ in pack.places]
    places = [place for pack in batch for place in pack.places]
    targets = torch.tensor([target for pack in batch for target in pack.targets])
    log_probs, greedy = _token_log_probs(model, resid[rows, places], targets.to(resid.device))
    tokens: dict[tuple[int, int], list[tuple[float, bool]]] = {}
    owners = (owner for pack in batch for owner in pack.owners)
    for owner, *token in zip(owners, log_probs.tolist(), greedy.tolist(), strict=True):
        tokens.setdefault(owner, []).append((token[0], token[1]))
    for owner, scored in tokens.items():
        total = math.fsum(log_prob for log_prob, _ in scored)
        if not math.isfinite(total):
            raise NumericalError("the log-likelihood of a continuation is NaN or infinite")
        yield owner, Likelihood(total, all(best for _, best in scored), len(scored))


def _token_log_probs(
    model: HookedTransformer, resid: Float[Tensor, "n d_model"], targets: Tensor
) -> tuple[Float[Tensor, " n"], Tensor]:
    """Log p of each target, and whether it is the likeliest token, in slices of positions."""
    log_probs, greedy = [], []
    for start in range(0, len(targets), _UNEMBED_TOKENS):
        part = slice(start, start + _UNEMBED_TOKENS)
        logits = unembed(model, resid[None, part], wide=True)[0]
        log_probs.append(
            -torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
        )
        greedy.append(logits.argmax(-1) == targets[part])
    return torch.cat(log_probs), torch.cat(greedy)


def _require_fit(
    model: HookedTransformer, items: Sequence[Item], encoded: Sequence[Sequence[tuple[Row, Row]]]
) -> None:
    for item, pairs in zip(items, encoded, strict=True):
        longest = max(len(context) + len(rest) - 1 for context, rest in pairs)
        if longest > model.cfg.n_ctx:
            allowed = f"{model.cfg.n_ctx}, the context of the model; leave the task out"
            raise InputError(f"item {item.id}", f"has {longest} tokens", allowed)
