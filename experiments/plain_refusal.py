"""The scores of a refusal search the plain way: one candidate, one prompt, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lpa_interp.chat import Row
from lpa_interp.hooks import ablation, add
from lpa_interp.judges import refusal_log_odds
from lpa_interp.model import HookedTransformer

Hooks = list[tuple[Any, Callable[..., Any]]]


def logits_of(model: HookedTransformer, row: Row, hooks: Hooks | None = None) -> torch.Tensor:
    """Logits at the last token, [1, d_vocab]."""
    with torch.no_grad(), model.hooks(fwd_hooks=hooks or []):
        logits: torch.Tensor = model(torch.tensor([row], device=model.cfg.device))[:, -1]
    return logits


def log_odds(
    model: HookedTransformer, row: Row, ids: Sequence[int], hooks: Hooks | None = None
) -> float:
    """Refusal log-odds of one prompt, nats."""
    return refusal_log_odds(logits_of(model, row, hooks), ids).item()


def divergence(model: HookedTransformer, row: Row, hooks: Hooks) -> float:
    """KL(unmodified || with hooks) in nats."""
    log_p, log_q = (logits_of(model, row, h).log_softmax(-1) for h in (None, hooks))
    return (log_p.exp() * (log_p - log_q)).sum().item()


def candidate_scores(
    model: HookedTransformer,
    harmful: Sequence[Row],
    harmless: Sequence[Row],
    vector: np.ndarray,
    layer: int,
    ids: Sequence[int],
) -> tuple[float, float, float]:
    """Bypass, induce and KL of one candidate vector [d_model]."""
    direction = torch.from_numpy(vector).to(model.cfg.device)
    cut = ablation(model, direction)
    added: Hooks = [(f"blocks.{layer}.hook_resid_pre", add(direction))]
    bypass = np.mean([log_odds(model, row, ids, cut) for row in harmful])
    induce = np.mean([log_odds(model, row, ids, added) for row in harmless])
    kl = np.mean([divergence(model, row, cut) for row in harmless])
    return float(bypass), float(induce), float(kl)
