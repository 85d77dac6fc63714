"""What training gives to the outside after each step: its rows, and the state to go on from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lpa_interp.records import AttackSite, TrainingStep, WatchedCompletion


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a later call needs to go on: tensors by name and the number of finished steps."""

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """The rows of the steps of one call."""

    steps: list[TrainingStep] = field(default_factory=list)
    sites: list[AttackSite] = field(default_factory=list)
    watched: list[WatchedCompletion] = field(default_factory=list)

    def extend(self, other: TrainingLog) -> None:
        """Appends another log's rows."""
        self.steps.extend(other.steps)
        self.sites.extend(other.sites)
        self.watched.extend(other.watched)
