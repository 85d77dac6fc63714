"""What safety training costs: perplexity, accuracy of public tasks, distance from the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lpa_interp.chunks import Keeper, Place, Rows
from lpa_interp.model import HookedTransformer
from lpa_interp.perplexity import block_losses
from lpa_interp.records import ModelLabel, Prompt, Verdict
from lpa_interp.runs import content_hash
from lpa_interp.utility.accuracy import task_verdicts
from lpa_interp.utility.divergence import Reference, kl_to_base
from lpa_interp.utility.loading import find_task
from lpa_interp.utility.task import Item

LOSS_JUDGE = "next-token loss"
"""Judge of the verdicts on blocks of the perplexity text, nats per token."""
KL_JUDGE = "KL(base || model)"
ITEMS_AT_A_TIME = 64
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class BaseAnswers:
    """What the base model says to harmless prompts, from `reference_log_probs`."""

    prompts: tuple[Prompt, ...]
    reference: Reference


def loss_verdicts(
    model: HookedTransformer,
    label: ModelLabel,
    text: tuple[str, str],
    n_tokens: int,
    tick: Tick | None = None,
) -> list[Verdict]:
    """Losses of a text by block, nats per token; the text is given as name and content."""
    losses = block_losses(model, text[1], n_tokens, tick).tolist()
    return [
        Verdict(
            model=label,
            benchmark=text[0],
            attack="none",
            prompt_id=f"block-{number:04d}",
            harmful=False,
            judge=LOSS_JUDGE,
            measure="perplexity",
            value=loss,
        )
        for number, loss in enumerate(losses)
    ]


def utility_verdicts(
    model: HookedTransformer,
    label: ModelLabel,
    tasks: Mapping[str, Sequence[Item]],
    batch_size: int,
    keeper: Keeper,
    tick: Tick | None = None,
) -> list[Verdict]:
    """Verdicts on the items of public tasks; items that were kept are not measured again."""
    verdicts: list[Verdict] = []
    total, done = sum(map(len, tasks.values())), 0
    for name, items in tasks.items():
        for start in range(0, len(items), ITEMS_AT_A_TIME):
            part = items[start : start + ITEMS_AT_A_TIME]
            key = content_hash([label, name, [item.id for item in part]])
            rows = keeper.get(key)
            if rows is None:
                made = task_verdicts(model, label, find_task(name), part, batch_size)
                rows = Rows((), tuple(made))
                keeper.put(key, rows)
            verdicts += rows.verdicts
            done += len(part)
            if tick is not None:
                tick(done, total)
    return verdicts


def kl_verdicts(
    model: HookedTransformer,
    label: ModelLabel,
    base: Mapping[str, BaseAnswers],
    batch_size: int,
) -> list[Verdict]:
    """KL of the base model's next tokens to this model's on its answers, nats per token."""
    verdicts = []
    for name, known in base.items():
        place = Place(label, name, "none")
        values = kl_to_base(model, known.reference, batch_size)
        verdicts += [
            place.verdict(prompt, KL_JUDGE, "kl_to_base", value)
            for prompt, value in zip(known.prompts, values, strict=True)
        ]
    return verdicts
