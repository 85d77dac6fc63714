"""The refusal direction cut out of the model while it answers, and its control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.hooks import Intervention, ablation
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, Mount, Mounted, Progress
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt

CITATION = "Arditi et al. 2024, arXiv 2406.11717, section 2.4"
UNIT_TOLERANCE = 1e-3
"""How far from 1 the norm of a unit vector may be."""


def ablation_attack(name: str, direction: Float[Tensor, " d_model"], whose: str) -> Attack:
    """A direction ablated from everything that writes into the residual stream.

    Args:
        name: The attack's name: ``ablate_own_refusal``, ``ablate_base_refusal``.
        direction: Unit vector, found in this model or in another of the same d_model.
        whose: The model that the direction was found in, for the description.

    Raises:
        InputError: The direction is not a unit vector; while it is mounted: it does not have
            the model's d_model.
    """
    norm = direction.float().norm().item()
    if not abs(norm - 1) < UNIT_TOLERANCE:
        raise InputError(f"attack {name!r}", f"the direction has norm {norm:g}", "a unit vector")
    return Attack(
        name=name,
        description=f"the refusal direction of the {whose} model cut out while it answers",
        citation=CITATION,
        mount=_mount(name, lambda model: direction),
    )


def random_ablation_attack(seed: int = 0) -> Attack:
    """The control: a random unit vector of the model's d_model ablated in the same places."""

    def draw(model: HookedTransformer) -> Float[Tensor, " d_model"]:
        generator = torch.Generator().manual_seed(seed)
        vector = torch.randn(model.cfg.d_model, generator=generator)
        return torch.nn.functional.normalize(vector, dim=0)

    name = "ablate_random" if seed == 0 else f"ablate_random:{seed}"
    return Attack(
        name=name,
        description="control: a random direction cut out while the model answers",
        citation=CITATION,
        mount=_mount(name, draw),
    )


def _mount(name: str, direction_for: Callable[[HookedTransformer], Tensor]) -> Mount:
    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        direction = direction_for(model)
        if len(direction) != model.cfg.d_model:
            found = f"the direction has {len(direction)} components"
            raise InputError(f"attack {name!r}", found, f"d_model is {model.cfg.d_model}")
        cut = ablation(model, direction)

        def row_hooks(indices: Sequence[int], mask: Int[Tensor, "batch pos"]) -> Intervention:
            return cut

        yield Mounted(tuple(AttackedPrompt(prompt.text) for prompt in prompts), row_hooks)

    return mount
