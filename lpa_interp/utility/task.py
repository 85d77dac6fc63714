"""What a task of the price side is: items with their choices, and what is counted on them.

No chat template is applied: the prompts are those of the LM Evaluation Harness, so that numbers
compare with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpa_interp.prompt_sets.benchmark import BenchmarkFile

LIKELIHOOD_JUDGE = "likelihood"
"""1 where the correct choice has the highest log-likelihood (``acc`` of the harness)."""

PER_CHARACTER_JUDGE = "likelihood per character"
"""1 where it has the highest log-likelihood divided by its length (``acc_norm``).

The harness's paper (Biderman et al. 2024, arXiv 2405.14782) says bytes; its code (0.4.13,
``ConfigurableTask.process_results``) divides by the number of characters, as here. The two differ
for choices outside ASCII.
"""

GREEDY_JUDGE = "greedy continuation"
"""1 where every token of the target is the likeliest one (``acc`` of a ``loglikelihood`` task)."""

TARGET_LOSS_JUDGE = "target loss"
"""Negative log-likelihood of a whole target, nats; exp of the mean is the ``perplexity``."""

MEASURES = {
    LIKELIHOOD_JUDGE: "accuracy",
    PER_CHARACTER_JUDGE: "accuracy",
    GREEDY_JUDGE: "accuracy",
    TARGET_LOSS_JUDGE: "perplexity",
}
"""What a judge's verdicts add up to, as in `Score`."""

HARNESS_METRICS = {
    LIKELIHOOD_JUDGE: "acc",
    PER_CHARACTER_JUDGE: "acc_norm",
    GREEDY_JUDGE: "acc",
    TARGET_LOSS_JUDGE: "perplexity",
}
"""What the harness calls the mean of a judge's verdicts (exp of it for the target loss)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question: texts to continue, the continuations that are compared, the correct one.

    There is one context and several choices, or a context per choice and a single continuation
    (WinoGrande), or one of each: a target to be continued exactly (LAMBADA). A continuation is
    a space and the choice. ``gold`` counts from 0.
    """

    id: str
    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    gold: int
    category: str = "none"

    def __post_init__(self) -> None:
        if min(len(self.contexts), len(self.choices)) != 1:
            raise ValueError(f"{self.id}: one context, or one choice")
        if not 0 <= self.gold < len(self.pairs):
            raise ValueError(f"{self.id}: gold is {self.gold}, of {len(self.pairs)}")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Context and continuation of each answer."""
        return tuple((text, f" {choice}") for text in self.contexts for choice in self.choices)


Read = Callable[[Sequence[Path]], list[Item]]
"""From the files of a task, in the order that the task names them, to its items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task: its pinned files, how their rows become items, and the judges of an item.

    ``prompt`` is the exact text of a context, with the continuation after it. ``folder`` holds
    the files in ``LPA_DATA_DIR`` and in the cache. ``note`` says where its items differ from
    those that published numbers are about.
    """

    name: str
    files: tuple[BenchmarkFile, ...]
    folder: str
    read: Read
    judges: tuple[str, ...]
    prompt: str
    source: str
    licence: str
    citation: str
    note: str = ""
