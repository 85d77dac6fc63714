"""One outer step of training: attack, then defence and retain terms at the fixed perturbation.

Negative statements carry the attack, positive ones the retain term. Every random choice is
a function of the seed and the step, so a resumed run goes on bit for bit.
Source: arXiv 2407.15549, algorithm 1; arXiv 2605.08496 for the statements.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lpa_interp.attack import Bases, measure
from lpa_interp.attackers import ATTACKERS, AttackInputs
from lpa_interp.batches import TraitBatch, make_batch
from lpa_interp.chat import chat_rows
from lpa_interp.config import TrainConfig
from lpa_interp.defence import BaseReadings, DefenceInputs, accumulate_gradients, read_base
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.hooks import Intervention, require_d_model, resolve_hooks
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import Perturbation
from lpa_interp.projections import products_in
from lpa_interp.records import (
    TrainingStep,
    TraitSide,
    TraitStatement,
    WatchedCompletion,
)
from lpa_interp.refusal_feature import feature_ablation, feature_layers, refusal_features
from lpa_interp.training_log import TrainerState, TrainingLog
from lpa_interp.watch import watch

FEATURE = "refusal_feature."
"""Prefix of the refusal feature's tensors in a kept state."""


class Trainer:
    """The state of a run: the adapter, the optimiser and the number of finished steps."""

    def __init__(
        self,
        model: HookedTransformer,
        statements: Sequence[TraitStatement],
        config: TrainConfig,
        seed: int,
        system: str | None,
        bases: Bases | None = None,
    ) -> None:
        self.model, self.config, self.seed, self.system = model, config, seed, system
        self.statements = {side: _on_side(statements, side) for side in get_args(TraitSide)}
        self.sites = resolve_hooks(model, config.sites)
        require_d_model(self.sites)
        self.bases, self.step = bases, 0
        self.features: dict[str, Tensor] = {}
        self.adapter = attach_lora(
            model, config.lora_targets, config.lora_rank, config.lora_alpha, seed
        )
        self.optimizer = self._new_optimizer()

    def advance(self) -> TrainingLog:
        """One outer step."""
        with products_in(torch.bfloat16 if self.config.products == "bfloat16" else None):
            return self._advance()

    def _advance(self) -> TrainingLog:
        try:
            chosen = self.chosen("negative")
            attacked = make_batch(self.model, chosen, self.system)
            retained = self.batch("positive").desired_only()
            start = time.perf_counter()
            base = read_base(self.model, self.adapter, attacked, retained, self.config)
            attack = self._attack(attacked, base)
            found = time.perf_counter()
            watched = self._watch(attacked, chosen, attack)
            begun = time.perf_counter()
            values = self._defend(attacked, retained, attack, base)
            with self.model.hooks(fwd_hooks=attack.hooks):
                after = measure(self.model, attacked, attack.deltas, self.config)
            done = time.perf_counter()
        except NumericalError as error:
            raise NumericalError(f"step {self.step + 1}: {error}") from None
        self.step += 1
        sites = attack.site_rows(self.step, self.config)
        row = TrainingStep(
            step=self.step,
            attack_toward_start=attack.start.toward,
            attack_away_start=attack.start.away,
            attack_toward=attack.reached.toward,
            attack_away=attack.reached.away,
            attack_toward_after=after.toward,
            attack_away_after=after.away,
            **values,
            perturbation_norm=attack.mean_norm(),
            epsilon_bound_fraction=_mean([site.bound_fraction for site in sites]),
            attack_seconds=found - start,
            defence_seconds=done - begun,
        )
        return TrainingLog([row], sites, watched)

    def _attack(self, batch: TraitBatch, base: BaseReadings) -> Perturbation:
        """The study's attack on the model as it is now."""
        config, generator = self.config, torch.Generator()
        generator.manual_seed(random.Random(f"attack.{self.seed}.{self.step}").getrandbits(63))
        with self.adapter.frozen():
            ablation = None
            if config.attack == "refusal_feature":
                ablation = self._feature_ablation(len(batch.prompt), generator)
            inputs = AttackInputs(self.sites, config, generator, self.bases, base.answers, ablation)
            return ATTACKERS[config.attack](self.model, batch, inputs)

    def _feature_ablation(self, n_examples: int, generator: torch.Generator) -> Intervention:
        """Cuts the refusal feature out of a random share of the examples."""
        config = self.config
        if self.step % config.refusal_feature_every == 0 or not self.features:
            layers = feature_layers(self.model.cfg.n_layers, config.refusal_feature_layers)
            harmful, harmless = self._prompts("negative"), self._prompts("positive")
            self.features = refusal_features(self.model, harmful, harmless, layers)
        draws = torch.rand(n_examples, generator=generator)
        return feature_ablation(self.features, draws < config.refusal_feature_probability)

    def _prompts(self, side: TraitSide) -> list[list[int]]:
        """Prompts of a side that the refusal feature is averaged over."""
        pool, size = self.statements[side], self.config.refusal_feature_pairs
        turn = self.step // self.config.refusal_feature_every
        indices = draw(len(pool), min(size, len(pool)), turn, f"feature.{side}.{self.seed}")
        return chat_rows(self.model, [pool[index].text for index in indices], self.system)

    def _defend(
        self, attacked: TraitBatch, retained: TraitBatch, attack: Perturbation, base: BaseReadings
    ) -> dict[str, float]:
        """The model updates at a fixed perturbation; means of the losses over them."""
        config = self.config
        if config.restart_optimizer:
            self.optimizer = self._new_optimizer()
        weights = config.defence_coefficients(self.step / config.steps)
        inputs = DefenceInputs(attacked, retained, attack, base, weights, config)
        updates = []
        for _ in range(config.updates_per_step):
            values = accumulate_gradients(self.model, self.adapter, inputs)
            norm = clip_grad_norm_(self.adapter.parameters(), config.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            updates.append({**values, "grad_norm": norm.item()})
        return {name: _mean([update[name] for update in updates]) for name in updates[0]}

    def _watch(
        self, batch: TraitBatch, chosen: Sequence[TraitStatement], attack: Perturbation
    ) -> list[WatchedCompletion]:
        """What the model answers under the attack and without it, on the steps watched."""
        config = self.config
        if config.watch_every == 0 or self.step % config.watch_every:
            return []
        # Without an attack: the control, or all there is where nothing is attacked.
        kinds = (attack, None) if attack.deltas or attack.hooks else (None,)
        look = partial(watch, self.model, batch, chosen, step=self.step + 1)
        look = partial(look, max_new_tokens=config.watch_tokens, judge=config.watch_judge)
        with self.adapter.frozen():
            looks = [look(by) for by in kinds]
        return [row for rows in looks for row in rows]

    def state(self) -> TrainerState:
        """The adapter, and what else outlives a step: optimiser moments, refusal feature."""
        tensors = self.adapter.state_dict()
        tensors |= {FEATURE + name: vector for name, vector in self.features.items()}
        if not self.config.restart_optimizer:
            for index, moments in self.optimizer.state_dict()["state"].items():
                for name, value in moments.items():
                    tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).clone()
        return TrainerState(self.step, tensors)

    def load(self, state: TrainerState) -> None:
        """Goes back to a kept state."""
        self.step, self.features, self.optimizer = state.step, {}, self._new_optimizer()
        self.adapter.load_state_dict(state.tensors)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.tensors.items():
            if key.startswith(FEATURE):
                self.features[key.removeprefix(FEATURE)] = value
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        if moments:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def chosen(self, side: TraitSide) -> list[TraitStatement]:
        """The current step's negative (attacked) or positive (retained) statements."""
        pool = self.statements[side]
        indices = draw(len(pool), self.config.batch_size, self.step, f"{side}.{self.seed}")
        return [pool[index] for index in indices]

    def batch(self, side: TraitSide) -> TraitBatch:
        """The current step's statements of a side as tokens."""
        return make_batch(self.model, self.chosen(side), self.system)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.adapter.parameters(), lr=self.config.learning_rate, fused=True
        )


def draw(n: int, size: int, step: int, stream: str) -> list[int]:
    """Indices of a step's batch: shuffled passes over n items, a function of its arguments."""
    indices = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, n)
        order = random.Random(f"{stream}.{epoch}").sample(range(n), n)
        indices.append(order[place])
    return indices


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _on_side(statements: Sequence[TraitStatement], side: str) -> list[TraitStatement]:
    chosen = [statement for statement in statements if statement.side == side]
    if not chosen:
        raise InputError("traits", f"no {side} statement", "training needs both sides")
    return chosen
