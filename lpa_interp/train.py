"""The training loop: attack, then defence and retain terms at the fixed perturbation.

Negative statements carry the attack, positive ones the retain term. Every random choice is
a function of the seed and the step, so a resumed run goes on bit for bit.
Source: arXiv 2407.15549, algorithm 1; arXiv 2605.08496 for the statements.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lpa_interp.attack import Perturbation, pgd
from lpa_interp.batches import TraitBatch, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.defence import accumulate_gradients, base_logits
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.hooks import require_d_model, resolve_hooks
from lpa_interp.lora import LoraAdapter, attach_lora
from lpa_interp.model import HookedTransformer
from lpa_interp.records import TrainingStep, TraitSide, TraitStatement


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a later call needs to go on: tensors by name and the number of finished steps."""

    step: int
    tensors: dict[str, Tensor]


OnStep = Callable[[TrainingStep, TrainerState], None]


def train_lpa(
    model: HookedTransformer,
    statements: Sequence[TraitStatement],
    config: TrainConfig,
    seed: int = 0,
    system: str | None = None,
    resume: TrainerState | None = None,
    on_step: OnStep | None = None,
) -> tuple[LoraAdapter, list[TrainingStep]]:
    """Trains an adapter on the model in place and leaves it attached.

    Args:
        model: Any HookedTransformer with a tokenizer; its weights are not changed.
        statements: Positive and negative statements.
        config: Losses, attack, adapter and schedule.
        seed: Of batches and of the adapter's start.
        system: System message before each statement.
        resume: The state after an earlier step.
        on_step: Called after each step with its row and the state to keep.

    Returns:
        The adapter and one row per step made by this call.

    Raises:
        InputError: No statement on one side, or a site that cannot be attacked.
        NumericalError: A loss or gradient is not finite; names the step and the place.
    """
    trainer = Trainer(model, statements, config, seed, system)
    if resume is not None:
        trainer.load(resume)
    rows = []
    while trainer.step < config.steps:
        row = trainer.advance()
        rows.append(row)
        if on_step is not None:
            on_step(row, trainer.state())
    return trainer.adapter, rows


class Trainer:
    """The state of a run: the adapter, the optimiser and the number of finished steps."""

    def __init__(
        self,
        model: HookedTransformer,
        statements: Sequence[TraitStatement],
        config: TrainConfig,
        seed: int,
        system: str | None,
    ) -> None:
        self.model, self.config, self.seed, self.system = model, config, seed, system
        self.statements = {side: _on_side(statements, side) for side in get_args(TraitSide)}
        self.sites = resolve_hooks(model, config.sites)
        require_d_model(self.sites)
        self.step = 0
        self.adapter = attach_lora(
            model, config.lora_targets, config.lora_rank, config.lora_alpha, seed
        )
        self.optimizer = self._new_optimizer()

    def advance(self) -> TrainingStep:
        """One outer step."""
        try:
            attack_batch = self.batch("negative")
            retain_batch = self.batch("positive").desired_only()
            start = time.perf_counter()
            with self.adapter.frozen():
                attack = pgd(self.model, attack_batch, self.sites, self.config)
            attacked = time.perf_counter()
            defence = self._defend(attack_batch, retain_batch, attack)
        except NumericalError as error:
            raise NumericalError(f"step {self.step + 1}: {error}") from None
        self.step += 1
        return TrainingStep(
            step=self.step,
            attack_toward=attack.toward,
            attack_away=attack.away,
            **defence,
            perturbation_norm=attack.mean_norm(),
            epsilon_bound_fraction=attack.bound_fraction(),
            attack_seconds=attacked - start,
            defence_seconds=time.perf_counter() - attacked,
        )

    def _defend(
        self, batch: TraitBatch, retain_batch: TraitBatch, attack: Perturbation
    ) -> dict[str, float]:
        """The model updates at a fixed perturbation; means of the losses over them."""
        if self.config.restart_optimizer:
            self.optimizer = self._new_optimizer()
        base = base_logits(self.model, self.adapter, retain_batch, self.config)
        names = ("defence_toward", "defence_away", "retain", "grad_norm")
        sums = dict.fromkeys(names, 0.0)
        for _ in range(self.config.updates_per_step):
            values = accumulate_gradients(
                self.model, self.adapter, batch, attack, retain_batch, base, self.config
            )
            norm = clip_grad_norm_(self.adapter.parameters(), self.config.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            values["grad_norm"] = norm.item()
            for name in names:
                sums[name] += values[name] / self.config.updates_per_step
        return sums

    def state(self) -> TrainerState:
        """The adapter, and the optimiser's moments where they outlive a step."""
        tensors = self.adapter.state_dict()
        if not self.config.restart_optimizer:
            for index, moments in self.optimizer.state_dict()["state"].items():
                for name, value in moments.items():
                    tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).clone()
        return TrainerState(self.step, tensors)

    def load(self, state: TrainerState) -> None:
        """Goes back to a kept state."""
        self.step = state.step
        self.adapter.load_state_dict(state.tensors)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        if moments:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def batch(self, side: TraitSide) -> TraitBatch:
        """The current step's batch of negative (attacked) or positive (retained) statements."""
        statements = self.statements[side]
        chosen = draw(len(statements), self.config.batch_size, self.step, f"{side}.{self.seed}")
        return make_batch(self.model, [statements[index] for index in chosen], self.system)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.adapter.parameters(), lr=self.config.learning_rate)


def draw(n: int, size: int, step: int, stream: str) -> list[int]:
    """Indices of a step's batch: shuffled passes over n items, a function of its arguments."""
    indices = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, n)
        order = random.Random(f"{stream}.{epoch}").sample(range(n), n)
        indices.append(order[place])
    return indices


def _on_side(statements: Sequence[TraitStatement], side: str) -> list[TraitStatement]:
    chosen = [statement for statement in statements if statement.side == side]
    if not chosen:
        raise InputError("traits", f"no {side} statement", "training needs both sides")
    return chosen
