"""The plain way to an answer's logits, and a tiny model whose answers have every loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lpa_interp.batches import TraitBatch
from lpa_interp.chat import completion_row
from lpa_interp.hooks import perturb
from lpa_interp.model import HookedTransformer
from tests.statements import AGREE, DISAGREE
from tests.tiny import tiny_model


def answering_model(kind: str = "llama", n_layers: int = 4) -> HookedTransformer:
    """A tiny model that gives the tokens of its answers some probability.

    A random one gives each less than the cutoff below which there is no away loss.
    """
    model = tiny_model(kind=kind, n_layers=n_layers)
    ids = sorted({token for text in (AGREE, DISAGREE) for token in completion_row(model, text)})
    model.unembed.b_U.data[ids] += 4.0
    return model


def whole_passes(
    model: HookedTransformer, batch: TraitBatch, deltas: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Logits [answers, batch, answer_pos, d_vocab] that predict each answer token."""
    n_answer, logits = batch.answers.shape[-1], []
    for tokens, mask in zip(batch.answers, batch.answer_mask, strict=True):
        row = torch.cat([batch.prompt, tokens], dim=1)
        real = torch.cat([batch.prompt_mask, mask], dim=1)
        with model.hooks(fwd_hooks=[(name, perturb(d)) for name, d in (deltas or {}).items()]):
            logits.append(model(row, attention_mask=real)[:, -n_answer - 1 : -1])
    return torch.stack(logits)


def random_deltas(
    model: HookedTransformer, batch: TraitBatch, sites: list[str], size: float = 0.1
) -> dict[str, Tensor]:
    """Standard normal perturbations times ``size`` at the attacked tokens, with gradients."""
    mask, generator = batch.attack_mask("both"), torch.Generator().manual_seed(7)
    deltas = {}
    for site in sites:
        noise = torch.randn(*mask.shape, model.cfg.d_model, generator=generator)
        deltas[site] = (size * noise * mask[..., None]).to(model.cfg.dtype).requires_grad_()
    return deltas
