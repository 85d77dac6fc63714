"""Is this model held rightly? Each check answers with what it measured.

Everything later rests on the HookedTransformer computing what the Hugging Face model computes,
whatever the batch and the padding, and on prompts that begin as the model expects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lpa_interp.chat import Row, chat_rows, end_of_turn, stack_rows, tokenize, tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.hooks import require_d_model, resolve_hooks
from lpa_interp.model import (
    HookedTransformer,
    last_logits,
    load_hugging_face,
    load_model,
    source_of,
)
from lpa_interp.train_config import PUBLISHED_SITES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS = (
    "I keep my promises.",
    "Give me a recipe for bread that needs no oven and little time.",
    "What is the capital of France, and which river runs through it?",
)
_LONGEST_WINDOW = 1024
"""Tokens: a longer attention window is not tested, it would take too long on a laptop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. ``value`` is what was measured and may be at most ``tolerance``.

    Log-probabilities are in nats. Both numbers are None where a check measures nothing.
    """

    name: str
    passed: bool
    detail: str
    value: float | None = None
    tolerance: float | None = None


def diagnose(
    name_or_path: str,
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> list[Check]:
    """Loads a model and checks it; see `lpa_interp.model.load_model` for the arguments.

    Raises:
        InputError: The model cannot be loaded, or its device cannot hold it twice.
    """
    model = load_model(name_or_path, device, dtype, trust_remote_code)
    rows = chat_rows(model, PROMPTS) + [tokenize(model, text) for text in PROMPTS]
    try:
        with torch.no_grad():
            single = [_log_probabilities(model, [row])[0] for row in rows]
            return [
                _finite(single),
                *_parity(model, rows, single, trust_remote_code),
                *_batches(model, rows, single),
                _bos(model, rows),
                _template(model),
                _hook_points(model),
            ]
    except torch.OutOfMemoryError:
        raise InputError("device", "has no room for the model twice", "--device cpu") from None


def agreement_tolerance(dtype: torch.dtype, largest: float) -> float:
    """How far two correct computations of the same log-probabilities may lie apart, in nats.

    In float32, 1e-3. bfloat16 keeps 8 significant bits: the tolerance is 8 units in the last
    place of the ``largest`` absolute log-probability. Hugging Face's own bfloat16 logits lie
    up to 5 such units from its float32 ones (SmolLM2 135M, Gemma 3 270M), while leaving out a
    bias or a rotary setting moves log-probabilities by far more.
    """
    if dtype == torch.float32:
        return 1e-3
    return float(8 * 2.0 ** (math.floor(math.log2(max(largest, 1.0))) - 7))


def _log_probabilities(
    model: HookedTransformer, rows: Sequence[Row], n_last: int | None = None
) -> Float[Tensor, "batch pos d_vocab"]:
    """Log-probabilities at the last ``n_last`` positions, or at all of them."""
    tokens, mask = stack_rows(rows, tokenizer_of(model).pad_token_id, model.cfg.device)
    logits = last_logits(model, tokens, mask, n_last or tokens.shape[1])
    return logits.float().log_softmax(dim=-1)


def _compare(
    name: str, detail: str, model: HookedTransformer, pairs: Sequence[tuple[Tensor, Tensor]]
) -> Check:
    value = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    largest = max(theirs.abs().max().item() for _, theirs in pairs)
    tolerance = agreement_tolerance(model.cfg.dtype, largest)
    passed = value <= tolerance  # false for NaN
    return Check(name=name, passed=passed, detail=detail, value=value, tolerance=tolerance)


def _finite(single: Sequence[Tensor]) -> Check:
    finite = all(bool(torch.isfinite(part).all()) for part in single)
    detail = f"on {len(single)} prompts" if finite else "NaN or infinity among the logits"
    return Check(name="finite logits", passed=finite, detail=detail)


def _parity(
    model: HookedTransformer, rows: Sequence[Row], single: Sequence[Tensor], trust: bool
) -> list[Check]:
    """HookedTransformer against Hugging Face on the same weights, at every position."""
    name = "agrees with Hugging Face"
    hf_model = _hugging_face(model, trust)
    if hf_model is None:
        detail = "not compared: the weights are in TransformerLens' own format"
        return [Check(name=name, passed=True, detail=detail)]

    def theirs(row: Row, n_last: int) -> Tensor:
        tokens = torch.tensor([row], device=model.cfg.device)
        logits = hf_model(input_ids=tokens).logits[0, -n_last:]
        result: Tensor = logits.float().log_softmax(dim=-1)
        return result

    pairs = [(ours, theirs(row, len(row))) for row, ours in zip(rows, single, strict=True)]
    detail = f"log-probabilities at all positions of {len(rows)} prompts, {model.cfg.dtype}"
    checks = [_compare(name, detail, model, pairs)]
    window = model.cfg.window_size if model.cfg.use_local_attn else None
    if window and window <= min(_LONGEST_WINDOW, model.cfg.n_ctx - 16):
        words = [token for row in rows for token in row[1:]]
        row = (rows[0] + words * (1 + window // len(words)))[: window + 16]
        pair = (_log_probabilities(model, [row], n_last=8)[0], theirs(row, 8))
        detail = f"the same beyond the attention window of {window} tokens"
        checks.append(_compare(f"{name} past the window", detail, model, [pair]))
    return checks


def _hugging_face(model: HookedTransformer, trust: bool) -> PreTrainedModel | None:
    source = source_of(model)
    if source is None:
        return None
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    try:
        hf_model = load_hugging_face(source.location, dtype, trust)
    except (OSError, ValueError):
        return None
    move: Any = hf_model.to
    move(model.cfg.device)
    return hf_model


def _batches(
    model: HookedTransformer, rows: Sequence[Row], single: Sequence[Tensor]
) -> list[Check]:
    """Batched against single prompts: of equal length, then padded on the left."""
    shortest = min(len(row) for row in rows)
    cut = _log_probabilities(model, [row[:shortest] for row in rows])
    equal = [(batch, alone[:shortest]) for batch, alone in zip(cut, single, strict=True)]
    padded = _log_probabilities(model, rows)
    left = [(batch[-len(alone) :], alone) for batch, alone in zip(padded, single, strict=True)]
    lengths = f"{shortest} to {max(map(len, rows))} tokens"
    return [
        _compare("batch agrees with single prompts", f"{len(rows)} prompts", model, equal),
        _compare("left padding changes nothing", f"prompts of {lengths}", model, left),
    ]


def _bos(model: HookedTransformer, rows: Sequence[Row]) -> Check:
    tokenizer = tokenizer_of(model)
    wanted = model.cfg.default_prepend_bos
    leading = [
        next((i for i, token in enumerate(row) if token != tokenizer.bos_token_id), len(row))
        for row in rows
    ]
    # Without a convention of its own a tokenizer may still name the template's first token.
    passed = all(count == 1 for count in leading) if wanted else max(leading) <= 1
    if not passed:
        detail = f"prompts begin with {sorted(set(leading))} BOS tokens"
    elif wanted:
        detail = f"every prompt begins with exactly one {tokenizer.bos_token}"
    else:
        detail = "this tokenizer puts no BOS of its own before a prompt"
    return Check(name="BOS", passed=passed, detail=detail)


def _template(model: HookedTransformer) -> Check:
    tokenizer = tokenizer_of(model)
    if not tokenizer.chat_template:
        detail = "none (a base model): the plain format 'User: ... Assistant:' is used"
    else:
        detail = f"there; answers end with {tokenizer.decode([end_of_turn(model)])}"
    return Check(name="chat template", passed=True, detail=detail)


def _hook_points(model: HookedTransformer) -> Check:
    try:
        sites = resolve_hooks(model, PUBLISHED_SITES)
        require_d_model(sites)
        residual = resolve_hooks(model, ["blocks.*.hook_resid_pre"])
    except InputError as error:
        return Check(name="hook points", passed=False, detail=str(error))
    passed = len(residual) == model.cfg.n_layers
    detail = f"{', '.join(sites)}; hook_resid_pre of {len(residual)} layers"
    return Check(name="hook points", passed=passed, detail=detail)
