from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import get_args

import pytest
import torch

from lpa_interp.attack import measure
from lpa_interp.attackers import ATTACKERS, AttackInputs
from lpa_interp.batches import TraitBatch, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.constraints import ConstraintName, orthonormal
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import Perturbation
from lpa_interp.refusal_feature import feature_ablation, feature_layers, refusal_features
from tests.planted import harmful_rows, harmless_rows
from tests.statements import STATEMENTS
from tests.whole_passes import answering_model

SITES = ["hook_embed", "blocks.2.hook_mlp_out"]
NEGATIVE = [statement for statement in STATEMENTS if statement.side == "negative"]


@cache
def setup() -> tuple[HookedTransformer, TraitBatch]:
    model = answering_model()
    return model, make_batch(model, NEGATIVE, None)


def inputs(seed: int = 0, **changes: object) -> AttackInputs:
    settings = {"preset": "custom", "pgd_steps": 4, "epsilon": 0.5, "attack_tokens": "prompt"}
    config = TrainConfig.model_validate({**settings, **changes})
    return AttackInputs(SITES, config, torch.Generator().manual_seed(seed))


def attack(name: str, given: AttackInputs) -> Perturbation:
    return ATTACKERS[name](*setup(), given)


def test_there_is_an_attacker_for_every_name_of_the_study() -> None:
    assert set(ATTACKERS) == set(get_args(TrainConfig.model_fields["attack"].annotation))


@pytest.mark.parametrize("constraint", get_args(ConstraintName))
def test_random_directions_keep_every_norm_and_the_set(constraint: str) -> None:
    found = attack("pgd", inputs(constraint=constraint))
    random = attack("random", inputs(constraint=constraint))
    assert torch.equal(random.mask, found.mask) and random.sites == found.sites
    for name, delta in random.deltas.items():
        norms = found.deltas[name].norm(dim=-1)
        torch.testing.assert_close(delta.norm(dim=-1), norms, rtol=1e-4, atol=1e-6)
        if constraint == "linf":
            assert delta.abs().max() <= found.sites[name].radius * (1 + 1e-5)
    bounds = [a.site_rows(1, inputs(constraint=constraint).config) for a in (found, random)]
    for ours, theirs in zip(*bounds, strict=True):
        assert ours.mean_norm == pytest.approx(theirs.mean_norm, rel=1e-4)


def test_random_directions_ignore_the_gradient() -> None:
    found, random = attack("pgd", inputs()), attack("random", inputs())
    attacked = found.mask.bool()
    for name in SITES:
        pair = found.deltas[name][attacked], random.deltas[name][attacked]
        cosine = torch.nn.functional.cosine_similarity(*pair, dim=-1)
        # The mean of n cosines with random directions has standard deviation 1 / sqrt(n d_model).
        assert cosine.mean().abs() < 4 / (len(cosine) * 32) ** 0.5
    gained = [a.start.toward - a.reached.toward for a in (found, random)]
    assert gained[0] > 4 * abs(gained[1])


def test_random_directions_are_a_function_of_the_seed() -> None:
    first, same, other = (attack("random", inputs(seed)) for seed in (3, 3, 4))
    for name in SITES:
        assert torch.equal(first.deltas[name], same.deltas[name])
        assert not torch.allclose(first.deltas[name], other.deltas[name], atol=1e-3)
    assert first.reached == same.reached != other.reached


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_random_directions_stay_in_the_subspace_of_the_attack(side: str) -> None:
    basis = orthonormal(torch.randn(3, 32, generator=torch.Generator().manual_seed(9)))
    given = replace(inputs(subspace_side=side), bases=dict.fromkeys(SITES, basis))
    random = attack("random", given)
    for delta in random.deltas.values():
        component = delta @ basis.T @ basis
        expected = delta if side == "inside" else torch.zeros_like(delta)
        assert delta.any() and torch.allclose(component, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["pgd", "random"])
def test_the_losses_reached_are_those_under_the_final_perturbation(name: str) -> None:
    model, batch = setup()
    given = inputs()
    found = attack(name, given)
    assert found.start == measure(model, batch, {}, given.config)
    assert found.reached == measure(model, batch, found.deltas, given.config)
    assert not found.hooks


def test_no_attack_changes_nothing_and_has_no_rows() -> None:
    model, batch = setup()
    given = inputs()
    found = attack("none", given)
    assert found.start == found.reached == measure(model, batch, {}, given.config)
    assert not found.deltas and not found.hooks and not found.mask.any()
    assert found.mean_norm() == 0 and found.site_rows(1, given.config) == []


def test_the_refusal_feature_attack_is_the_ablation_alone() -> None:
    model, batch = setup()
    layers = feature_layers(model.cfg.n_layers, 0.75)
    features = refusal_features(model, harmful_rows(model), harmless_rows(model), layers)
    ablation = feature_ablation(features, torch.tensor([True, False, True]))
    given = replace(inputs(), ablation=ablation)
    found = attack("refusal_feature", given)
    assert found.hooks == ablation and not found.deltas
    assert found.start == measure(model, batch, {}, given.config)
    with model.hooks(fwd_hooks=ablation):
        assert found.reached == measure(model, batch, {}, given.config)
    assert found.reached != found.start
    assert found.mean_norm() == 0 and found.site_rows(1, given.config) == []
