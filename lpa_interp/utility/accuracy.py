"""Verdicts on items: which continuation a model holds for the likeliest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lpa_interp.records import ModelLabel, Verdict
from lpa_interp.utility.task import (
    GREEDY_JUDGE,
    LIKELIHOOD_JUDGE,
    MEASURES,
    PER_CHARACTER_JUDGE,
    TARGET_LOSS_JUDGE,
    Item,
    Task,
)

if TYPE_CHECKING:
    from lpa_interp.model import HookedTransformer
    from lpa_interp.utility.likelihood import Likelihood


def task_verdicts(
    model: HookedTransformer,
    label: ModelLabel,
    task: Task,
    items: Sequence[Item],
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """A verdict of each of the task's judges on each item, judge by judge.

    The rows have the attack ``none`` and the harmless side; ``prompt_id`` is the item's.

    Args:
        model: Any model with a tokenizer; open hooks and adapters take part.
        label: What the rows call the model.
        task: Which judges, and the name of the benchmark.
        items: Of that task, from `load_task`.
        batch_size: As in `likelihoods`.
        progress: As in `likelihoods`.

    Raises:
        InputError: An item does not fit into the model's context.
        NumericalError: A log-likelihood is NaN or infinite.
    """
    from lpa_interp.utility.likelihood import likelihoods

    found = likelihoods(model, items, batch_size, progress)
    return [
        Verdict(
            model=label,
            benchmark=task.name,
            attack="none",
            prompt_id=item.id,
            harmful=False,
            judge=judge,
            measure=MEASURES[judge],
            value=judged(judge, item, scored),
        )
        for judge in task.judges
        for item, scored in zip(items, found, strict=True)
    ]


def judged(judge: str, item: Item, scored: Sequence[Likelihood]) -> float:
    """1 where the item is answered correctly, else 0; nats for the target loss.

    Of choices that are equally likely the first is taken, as ``numpy.argmax`` takes it.

    Raises:
        ValueError: The judge is none of `lpa_interp.utility.task`.
    """
    log_probs = [each.log_prob for each in scored]
    if judge == LIKELIHOOD_JUDGE:
        return float(log_probs.index(max(log_probs)) == item.gold)
    if judge == PER_CHARACTER_JUDGE:
        per_character = [
            log_prob / len(choice) for log_prob, choice in zip(log_probs, item.choices, strict=True)
        ]
        return float(per_character.index(max(per_character)) == item.gold)
    if judge == GREEDY_JUDGE:
        return float(scored[item.gold].is_greedy)
    if judge == TARGET_LOSS_JUDGE:
        return -log_probs[item.gold]
    raise ValueError(f"unknown judge {judge!r}")
