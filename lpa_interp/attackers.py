"""What perturbs the model while it is trained: one callable type, by the name in the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lpa_interp.attack import AnswerLogProbs, Bases, measure, pgd
from lpa_interp.batches import TraitBatch
from lpa_interp.constraints import same_norm_random
from lpa_interp.hooks import Intervention
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import Perturbation
from lpa_interp.train_config import TrainConfig


@dataclass(frozen=True, slots=True)
class AttackInputs:
    """What an attack may use beside the model and the batch.

    ``generator`` is on the CPU; ``ablation`` cuts out the refusal feature, for the attack of
    that name.
    """

    sites: Sequence[str]
    config: TrainConfig
    generator: torch.Generator
    bases: Bases | None = None
    reference: AnswerLogProbs | None = None
    ablation: Intervention | None = None


Attacker = Callable[[HookedTransformer, TraitBatch, AttackInputs], Perturbation]


def search(model: HookedTransformer, batch: TraitBatch, inputs: AttackInputs) -> Perturbation:
    """The perturbation that `pgd` finds."""
    return pgd(model, batch, inputs.sites, inputs.config, inputs.bases, inputs.reference)


def random_directions(
    model: HookedTransformer, batch: TraitBatch, inputs: AttackInputs
) -> Perturbation:
    """PGD's perturbation with every vector turned into a random direction of the same norm.

    The control for "any noise of that size would do".
    """
    found, config = search(model, batch, inputs), inputs.config
    turned = {
        name: same_norm_random(
            delta,
            found.mask,
            found.sites[name].radius,
            config.constraint,
            inputs.generator,
            found.bases.get(name),
            config.subspace_side == "inside",
        )
        for name, delta in found.deltas.items()
    }
    return replace(found, deltas=turned, reached=measure(model, batch, turned, config))


def nothing(model: HookedTransformer, batch: TraitBatch, inputs: AttackInputs) -> Perturbation:
    """No perturbation."""
    losses = measure(model, batch, {}, inputs.config)
    return Perturbation(losses, losses, torch.zeros_like(batch.attack_mask("both")))


def without_refusal_feature(
    model: HookedTransformer, batch: TraitBatch, inputs: AttackInputs
) -> Perturbation:
    """The refusal feature ablated. Source: ReFAT, arXiv 2409.20089, section 4."""
    assert inputs.ablation is not None
    plain = nothing(model, batch, inputs)
    with model.hooks(fwd_hooks=inputs.ablation):
        reached = measure(model, batch, {}, inputs.config)
    return replace(plain, reached=reached, hooks=inputs.ablation)


ATTACKERS: dict[str, Attacker] = {
    "pgd": search,
    "random": random_directions,
    "none": nothing,
    "refusal_feature": without_refusal_feature,
}
