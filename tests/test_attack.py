from __future__ import annotations

import pytest
import torch

from lpa_interp.attack import Perturbation, attack_losses, pgd, project, radii, site_norms
from lpa_interp.batches import make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.errors import NumericalError
from tests.statements import STATEMENTS
from tests.tiny import tiny_model

SITES = ["hook_embed", "blocks.2.hook_mlp_out"]
NEGATIVE = [statement for statement in STATEMENTS if statement.side == "negative"]


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"preset": "custom", "pgd_steps": 6, **changes})


def test_projection_is_the_nearest_point_of_the_ball() -> None:
    delta = torch.tensor([[[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]])
    expected = torch.tensor([[[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]]])
    assert torch.allclose(project(delta, 2.0), expected)


def test_perturbation_is_zero_outside_the_attack_mask_and_inside_the_ball() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)
    for where in ("prompt", "completion", "both"):
        settings = config(attack_tokens=where, epsilon=0.5)
        attack = pgd(model, batch, SITES, settings)
        outside = batch.attack_mask(where) == 0
        for name, delta in attack.deltas.items():
            assert delta[outside].abs().max() == 0
            assert delta.norm(dim=-1).max() <= attack.epsilons[name] * (1 + 1e-5)
            assert delta[~outside].abs().max() > 0


def test_attack_lowers_its_own_loss_and_more_room_lowers_it_further() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)

    def total(epsilon: float, steps: int) -> float:
        attack = pgd(model, batch, SITES, config(epsilon=epsilon, pgd_steps=steps))
        return attack.toward + attack.away

    assert total(2.0, 16) < total(0.2, 16) < total(0.2, 0)


def test_an_attack_of_no_steps_changes_nothing() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)
    attack = pgd(model, batch, SITES, config(pgd_steps=0))
    toward, away = attack_losses(model, batch, {})
    assert (attack.toward, attack.away) == (toward.item(), away.item())
    assert attack.mean_norm() == 0 and attack.bound_fraction() == 0


def test_epsilon_in_activation_units_scales_with_the_site() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)
    mask = batch.attack_mask("both")
    norms = site_norms(model, batch, SITES, mask)
    assert radii(model, batch, SITES, config(epsilon=0.5)) == {n: 0.5 * norms[n] for n in SITES}
    absolute = radii(model, batch, SITES, config(epsilon=6.0, epsilon_unit="absolute"))
    assert absolute == dict.fromkeys(SITES, 6.0)


def test_site_norms_are_medians_over_attacked_tokens_only() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)
    embeddings = model.W_E[batch.prompt].norm(dim=-1)
    by_hand = embeddings[batch.prompt_mask.bool()].median().item()
    norms = site_norms(model, batch, ["hook_embed"], batch.attack_mask("prompt"))
    assert norms["hook_embed"] == pytest.approx(by_hand)


def test_bound_fraction_counts_tokens_at_epsilon() -> None:
    delta = torch.tensor([[[1.0, 0.0], [0.0, 0.5], [9.0, 9.0]]])
    attack = Perturbation({"site": delta}, torch.tensor([[1, 1, 0]]), {"site": 1.0}, 0.0, 0.0)
    assert attack.bound_fraction() == 0.5
    assert attack.mean_norm() == pytest.approx(0.75)


def test_published_llama3_step_size_never_reaches_its_epsilon() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)
    attack = pgd(model, batch, SITES, TrainConfig(preset="published-llama3"))
    # 16 steps of 1e-3 per coordinate cannot exceed 16e-3 sqrt(d_model).
    assert attack.bound_fraction() == 0
    assert attack.mean_norm() < 16e-3 * model.cfg.d_model**0.5 * 1.01


def test_a_model_that_is_not_finite_stops_the_attack_and_names_the_hook_point() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"blocks\.1\.hook_mlp_out"):
        pgd(
            model,
            make_batch(model, NEGATIVE, None),
            ["hook_embed"],
            config(epsilon_unit="absolute"),
        )
