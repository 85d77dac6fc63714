"""The published recipe written plainly: Hugging Face and PEFT, two whole passes, all logits.

It is what the trainer is measured against, for exactness and for speed. LoRA products run in
every pass, base logits are recomputed at each update, and both answers run from the first
prompt token on. Source: the released trainer of arXiv 2407.15549. Llama-like models only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpa_interp import losses
from lpa_interp.batches import TraitBatch
from lpa_interp.config import TrainConfig
from lpa_interp.hooks import layer_of

Deltas = Mapping[str, Tensor]


class ReferenceTrainer:
    """LAT on a ``peft.PeftModel``, from the same adapter and batches as the trainer."""

    def __init__(self, base: Any, adapter: Path, sites: list[str], config: TrainConfig) -> None:
        """Takes a Hugging Face model where it lies; the adapter's weights are float32."""
        from peft import PeftModel

        model: Any = PeftModel.from_pretrained(base, adapter, is_trainable=True)
        self.model: Any = model.eval()
        self.decoder: Any = self.model.base_model.model.model
        self.sites, self.config = sites, config
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def advance(
        self, batch: TraitBatch, retain: TraitBatch, epsilons: Mapping[str, float]
    ) -> dict[str, float]:
        """One outer step; the same quantities as a row of the training log."""
        start = time.perf_counter()
        deltas, toward, away = self.attack(batch, epsilons)
        attacked = time.perf_counter()
        row = {"attack_toward": toward, "attack_away": away, **self.defend(batch, retain, deltas)}
        row["attack_seconds"] = attacked - start
        row["defence_seconds"] = time.perf_counter() - attacked
        return row

    def attack(
        self, batch: TraitBatch, epsilons: Mapping[str, float]
    ) -> tuple[dict[str, Tensor], float, float]:
        """PGD from a zero start; the deltas and their losses."""
        config, mask = self.config, batch.attack_mask(self.config.attack_tokens)
        d_model = self.model.config.hidden_size
        shape, device = (*mask.shape, d_model), mask.device
        deltas = {s: torch.zeros(shape, device=device, requires_grad=True) for s in self.sites}
        scale = {s: 1.0 if config.epsilon_unit == "absolute" else epsilons[s] / d_model**0.5
                 for s in self.sites}  # fmt: skip
        optimizer = torch.optim.AdamW(
            [{"params": [deltas[s]], "lr": config.pgd_learning_rate * scale[s]} for s in self.sites]
        )
        for _ in range(config.pgd_steps):
            toward, away = self._attack_losses(batch, deltas)
            optimizer.zero_grad()
            losses.weighted([(config.attack_toward, toward), (config.attack_away, away)]).backward()
            optimizer.step()
            with torch.no_grad():
                for site, delta in deltas.items():
                    delta.mul_(mask[..., None])
                    norms = delta.norm(dim=-1, keepdim=True)
                    delta.mul_((epsilons[site] / norms.clamp(min=1e-12)).clamp(max=1))
        self.model.zero_grad()
        with torch.no_grad():
            toward, away = self._attack_losses(batch, deltas)
        return {s: d.detach() for s, d in deltas.items()}, toward.item(), away.item()

    def _attack_losses(self, batch: TraitBatch, deltas: Deltas) -> tuple[Tensor, Tensor]:
        return (
            losses.toward(self.logits(batch, 1, deltas), batch.answers[1], batch.answer_mask[1]),
            losses.away(self.logits(batch, 0, deltas), batch.answers[0], batch.answer_mask[0]),
        )

    def defend(self, batch: TraitBatch, retain: TraitBatch, deltas: Deltas) -> dict[str, float]:
        """The model updates at fixed deltas; means of the losses."""
        config = self.config
        optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate)
        names = ("defence_toward", "defence_away", "retain", "grad_norm")
        sums = dict.fromkeys(names, 0.0)
        for _ in range(config.updates_per_step):
            desired, undesired = self.logits(batch, 0, deltas), self.logits(batch, 1, deltas)
            toward = losses.toward(desired, batch.answers[0], batch.answer_mask[0])
            away = losses.away(undesired, batch.answers[1], batch.answer_mask[1])
            terms = [(config.defence_toward, toward), (config.defence_away, away)]
            kept = self.logits(retain, 0, {})
            labels, mask = retain.answers[0], retain.answer_mask[0]
            shown = torch.tensor(0.0)
            if config.defence_sft > 0:
                shown = losses.toward(kept, labels, mask)
                terms.append((config.defence_sft, shown))
            if config.defence_kl > 0:
                with torch.no_grad(), self.model.disable_adapter():
                    base = self.logits(retain, 0, {})
                shown = losses.kl_divergence(kept, losses.log_probs(base), mask)
                term = losses.self_normalised(shown) if config.normalise_kl else shown
                terms.append((config.defence_kl, term))
            optimizer.zero_grad()
            losses.weighted(terms).backward()
            norm = torch.nn.utils.clip_grad_norm_(self.trained, config.gradient_clip)
            optimizer.step()
            for name, value in zip(names, (toward, away, shown, norm), strict=True):
                sums[name] += value.item() / config.updates_per_step
        return sums

    def logits(self, batch: TraitBatch, which: int, deltas: Deltas) -> Tensor:
        """One whole pass over prompt and answer, every logit computed."""
        tokens = torch.cat([batch.prompt, batch.answers[which]], dim=1)
        mask = torch.cat([batch.prompt_mask, batch.answer_mask[which]], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        n_answer = batch.answers.shape[-1]
        with self._open(deltas):
            out = self.model(input_ids=tokens, attention_mask=mask, position_ids=positions)
        logits: Tensor = out.logits[:, -n_answer - 1 : -1]
        return logits

    @contextmanager
    def _open(self, deltas: Deltas) -> Iterator[None]:
        def shift(delta: Tensor) -> Callable[..., Tensor]:
            return lambda module, inputs, output: output + delta.to(output.dtype)

        handles = []
        for site, delta in deltas.items():
            layer = layer_of(site)
            module = self.decoder.embed_tokens if layer < 0 else self.decoder.layers[layer].mlp
            handles.append(module.register_forward_hook(shift(delta)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
