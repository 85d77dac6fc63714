"""The training loop, for LPA, its controls and its rivals: what differs is the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lpa_interp.attack import Bases
from lpa_interp.config import TrainConfig
from lpa_interp.lora import LoraAdapter
from lpa_interp.model import HookedTransformer
from lpa_interp.records import TraitStatement
from lpa_interp.trainer import Trainer
from lpa_interp.training_log import TrainerState, TrainingLog

__all__ = ["TrainerState", "TrainingLog", "train_lpa"]

OnStep = Callable[[TrainingLog, TrainerState], None]


def train_lpa(
    model: HookedTransformer,
    statements: Sequence[TraitStatement],
    config: TrainConfig,
    seed: int = 0,
    system: str | None = None,
    resume: TrainerState | None = None,
    on_step: OnStep | None = None,
    bases: Bases | None = None,
) -> tuple[LoraAdapter, TrainingLog]:
    """Trains an adapter on the model in place and leaves it attached.

    Args:
        model: Any HookedTransformer with a tokenizer; its weights are not changed.
        statements: Positive and negative statements.
        config: Losses, attack, adapter and schedule.
        seed: Of batches, of the adapter's start and of random attacks.
        system: System message before each statement.
        resume: The state after an earlier step.
        on_step: Called after each step with its rows and the state to keep.
        bases: Orthonormal directions [k, d_model] by hook point, that the attack is confined to
            or kept out of (``config.subspace_side``).

    Returns:
        The adapter and the rows of the steps made by this call.

    Raises:
        InputError: No statement on one side, or a site that cannot be attacked.
        NumericalError: A loss or gradient is not finite; names the step and the place.
    """
    trainer = Trainer(model, statements, config, seed, system, bases)
    if resume is not None:
        trainer.load(resume)
    log = TrainingLog()
    while trainer.step < config.total_steps:
        rows = trainer.advance()
        log.extend(rows)
        if on_step is not None:
            on_step(rows, trainer.state())
    return trainer.adapter, log
