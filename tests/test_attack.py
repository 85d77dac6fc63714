from __future__ import annotations

from functools import cache
from typing import get_args

import pytest
import torch

from lpa_interp import losses
from lpa_interp.attack import AnswerLogProbs, attack_loss, measure, measure_sites, pgd, site_norms
from lpa_interp.batches import TraitBatch, answer_logits, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.constraints import ConstraintName, orthonormal
from lpa_interp.errors import NumericalError
from lpa_interp.model import HookedTransformer
from lpa_interp.perturbation import AttackLosses, Perturbation, Site
from tests.statements import STATEMENTS
from tests.tiny import tiny_model
from tests.whole_passes import answering_model, random_deltas, whole_passes

SITES = ["hook_embed", "blocks.2.hook_mlp_out"]
NEGATIVE = [statement for statement in STATEMENTS if statement.side == "negative"]
CONSTRAINTS = get_args(ConstraintName)
SYSTEM = "You are a helpful assistant."


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"preset": "custom", "pgd_steps": 6, **changes})


@cache
def setup(system: str | None = None) -> tuple[HookedTransformer, TraitBatch]:
    model = answering_model()
    return model, make_batch(model, NEGATIVE, system)


def log_probs(model: HookedTransformer, batch: TraitBatch) -> AnswerLogProbs:
    """The whole answers' log-probabilities, by whole passes and a plain sum."""
    with torch.no_grad():
        per_token = losses.label_log_probs(whole_passes(model, batch), batch.answers)
    return AnswerLogProbs(*(per_token * batch.answer_mask).sum(-1))


def sizes(delta: torch.Tensor, constraint: str) -> torch.Tensor:
    """What the constraint bounds by the radius."""
    if constraint == "l2_sequence":
        return delta.flatten(1).norm(dim=-1)
    return delta.abs() if constraint == "linf" else delta.norm(dim=-1)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("where", ["prompt", "completion", "both"])
@pytest.mark.parametrize("attack_system", [True, False])
def test_perturbation_is_zero_outside_the_attack_mask_and_inside_the_set(
    where: str, constraint: str, attack_system: bool
) -> None:
    model, batch = setup(SYSTEM)
    chosen = {"attack_tokens": where, "constraint": constraint, "attack_system": attack_system}
    attack = pgd(model, batch, SITES, config(epsilon=0.5, pgd_steps=2, **chosen))
    attacked = batch.attack_mask(where, attack_system).bool()  # type: ignore[arg-type]
    assert torch.equal(attack.mask.bool(), attacked)
    for name, delta in attack.deltas.items():
        assert not delta[~attacked].any()
        assert sizes(delta, constraint).max() <= attack.sites[name].radius * (1 + 1e-5)
        assert (delta[attacked].norm(dim=-1) > 0).all()
        if constraint == "low_rank":
            assert all(torch.linalg.matrix_rank(example) == 1 for example in delta)


def test_system_tokens_are_left_alone_where_the_study_says_so() -> None:
    model, batch = setup(SYSTEM)
    text = str(model.tokenizer.decode(batch.prompt[0]))
    assert SYSTEM in text
    n_system = len(model.tokenizer(text.partition(NEGATIVE[0].text)[0]).input_ids)
    for attack_system in (True, False):
        attack = pgd(model, batch, SITES, config(pgd_steps=1, attack_system=attack_system))
        for delta in attack.deltas.values():
            real = batch.prompt_mask[0].bool()
            moved = delta[0, : len(real)][real].norm(dim=-1) > 0
            assert moved[:n_system].tolist() == [attack_system] * n_system
            assert moved[n_system:].all()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("side", ["inside", "outside"])
def test_a_subspace_attack_stays_in_or_out_of_the_subspace_and_in_the_set(
    side: str, constraint: str
) -> None:
    model, batch = setup()
    generator = torch.Generator().manual_seed(0)
    bases = {
        name: orthonormal(torch.randn(k, 32, generator=generator))
        for name, k in zip(SITES, (1, 3), strict=True)
    }
    settings = config(constraint=constraint, subspace_side=side, epsilon=0.5)
    attack = pgd(model, batch, SITES, settings, bases)
    for name, delta in attack.deltas.items():
        component = delta @ bases[name].T @ bases[name]
        expected = delta if side == "inside" else torch.zeros_like(delta)
        assert torch.allclose(component, expected, atol=1e-5 * delta.abs().max().item())
        assert sizes(delta, constraint).max() <= attack.sites[name].radius * (1 + 1e-5)
        assert delta.any()


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_attack_lowers_its_own_loss_and_more_room_lowers_it_further(constraint: str) -> None:
    model, batch = setup()

    def total(epsilon: float, steps: int) -> float:
        settings = config(epsilon=epsilon, pgd_steps=steps, constraint=constraint)
        attack = pgd(model, batch, SITES, settings)
        assert attack.start == measure(model, batch, {}, settings)
        return attack.reached.toward + attack.reached.away

    assert total(2.0, 8) < total(0.1, 8) < total(0.1, 0)


def test_a_preference_attack_is_that_of_whole_passes_and_lowers_its_loss() -> None:
    model, batch = setup()
    settings = config(attack_toward=0, attack_away=0, attack_dpo=1, dpo_beta=0.3)
    base = log_probs(model, batch)
    zero, _ = attack_loss(model, batch, {}, settings, base)
    assert zero.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-5)
    attack = pgd(model, batch, SITES, settings, reference=base)
    now = losses.label_log_probs(whole_passes(model, batch, attack.deltas), batch.answers)
    desired, undesired = (now * batch.answer_mask).sum(-1)
    gained = (undesired - desired) - (base.undesired - base.desired)
    by_hand = -torch.log(1 / (1 + torch.exp(-0.3 * gained.double()))).mean()
    found, _ = attack_loss(model, batch, attack.deltas, settings, base)
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert found < 0.9 * zero


def test_attack_loss_weighs_its_parts_by_the_normalised_coefficients() -> None:
    model, batch = setup()
    deltas, base = random_deltas(model, batch, SITES), log_probs(model, batch)
    parts = {
        name: attack_loss(model, batch, deltas, config(**weights), base)[0].item()
        for name, weights in {
            "toward": {"attack_toward": 3, "attack_away": 0},
            "away": {"attack_toward": 0, "attack_away": 0.2},
            "dpo": {"attack_toward": 0, "attack_away": 0, "attack_dpo": 5},
        }.items()
    }
    mixed = {"attack_toward": 3, "attack_away": 1, "attack_dpo": 4}
    for normalise, total in ((True, 8), (False, 1)):
        settings = config(normalise_coefficients=normalise, **mixed)
        loss, shown = attack_loss(model, batch, deltas, settings, base)
        by_hand = (3 * parts["toward"] + parts["away"] + 4 * parts["dpo"]) / total
        assert loss.item() == pytest.approx(by_hand, rel=1e-5)
        plain = pytest.approx((parts["toward"], parts["away"]), rel=1e-5)
        assert (shown.toward, shown.away) == plain
        assert shown.away > 0.01


def test_start_and_reached_are_the_losses_of_whole_passes_without_and_with_deltas() -> None:
    model, batch = setup()
    attack = pgd(model, batch, SITES, config())
    for shown, deltas in ((attack.start, {}), (attack.reached, attack.deltas)):
        desired, undesired = whole_passes(model, batch, deltas)
        toward = losses.toward(undesired, batch.answers[1], batch.answer_mask[1]).item()
        away = losses.away(desired, batch.answers[0], batch.answer_mask[0]).item()
        assert (shown.toward, shown.away) == pytest.approx((toward, away), rel=1e-5)


def test_an_attack_of_no_steps_changes_nothing() -> None:
    model, batch = setup()
    attack = pgd(model, batch, SITES, config(pgd_steps=0))
    assert attack.start == attack.reached == measure(model, batch, {}, config())
    assert attack.mean_norm() == 0 and not any(delta.any() for delta in attack.deltas.values())


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_epsilon_in_activation_units_gives_each_set_the_same_budget(constraint: str) -> None:
    model, batch = setup()
    mask = batch.attack_mask("both")
    norms = site_norms(model, batch, SITES, mask)
    sites = measure_sites(model, batch, SITES, config(epsilon=0.5, constraint=constraint))
    n_tokens = mask.sum().item() / len(mask)
    scale = {"l2_sequence": n_tokens**0.5, "linf": 32**-0.5}.get(constraint, 1.0)
    for name, site in sites.items():
        assert (site.norm, site.token_radius) == (norms[name], 0.5 * norms[name])
        assert site.radius == pytest.approx(0.5 * norms[name] * scale)
    settings = config(attack_system=False, attack_tokens="prompt")
    statement = batch.attack_mask("prompt", system=False)
    for name, site in measure_sites(model, batch, SITES, settings).items():
        assert site.norm == site_norms(model, batch, SITES, statement)[name] != norms[name]
    fixed = config(epsilon=6.0, epsilon_unit="absolute", constraint=constraint)
    absolute = measure_sites(model, batch, SITES, fixed)
    assert absolute == {name: Site(norms[name], 6.0, 6.0) for name in SITES}


def test_site_norms_are_medians_over_attacked_tokens_only() -> None:
    model, batch = setup(SYSTEM)
    row = torch.cat([batch.prompt, batch.answers[0]], dim=1)
    for where, system in (("prompt", True), ("prompt", False), ("both", True)):
        mask = batch.attack_mask(where, system)  # type: ignore[arg-type]
        by_hand = model.W_E[row].norm(dim=-1)[mask.bool()].median().item()
        norms = site_norms(model, batch, ["hook_embed"], mask)
        assert norms["hook_embed"] == pytest.approx(by_hand)


def test_site_rows_say_where_the_constraint_was_binding() -> None:
    delta = torch.tensor([[[1.0, 0.0], [0.0, 0.5], [9.0, 9.0]]])
    none = AttackLosses(0.0, 0.0)
    deltas = {"far": delta, "near": delta / 4}
    sites = {"far": Site(7.0, 1.0, 1.0), "near": Site(3.0, 0.2, 0.1)}
    attack = Perturbation(none, none, torch.tensor([[1, 1, 0]]), deltas, sites)
    far, near = attack.site_rows(5, config())
    assert (far.step, far.hook_name, far.constraint) == (5, "far", "l2_token")
    assert (far.radius, far.activation_norm, far.bound_fraction) == (1.0, 7.0, 0.5)
    assert (far.mean_norm, near.mean_norm) == pytest.approx((0.75, 0.1875))
    assert near.bound_fraction == 0.5  # 0.25 is beyond 0.2, 0.125 is not
    assert attack.mean_norm() == pytest.approx((0.75 + 0.1875) / 2)


def test_a_strong_attack_reaches_the_bound_at_every_token() -> None:
    model, batch = setup()
    settings = config(attack_tokens="prompt", pgd_learning_rate=0.5, pgd_steps=8)
    rows = pgd(model, batch, SITES, settings).site_rows(1, settings)
    assert all(row.bound_fraction > 0.9 for row in rows)
    assert all(row.mean_norm <= row.radius * (1 + 1e-5) for row in rows)


def test_published_llama3_step_size_never_reaches_its_epsilon() -> None:
    model, batch = setup()
    settings = TrainConfig(preset="published-llama3")
    attack = pgd(model, batch, SITES, settings)
    # 16 steps of 1e-3 per coordinate cannot exceed 16e-3 sqrt(d_model).
    assert {row.bound_fraction for row in attack.site_rows(1, settings)} == {0}
    assert attack.mean_norm() < 16e-3 * model.cfg.d_model**0.5 * 1.01


def test_the_model_and_its_weights_are_left_as_they_were() -> None:
    model, batch = setup()
    before = answer_logits(model, batch)
    pgd(model, batch, SITES, config())
    assert torch.equal(answer_logits(model, batch), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_is_not_finite_stops_the_attack_and_names_the_hook_point() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"blocks\.1\.hook_mlp_out"):
        pgd(model, batch, ["hook_embed"], config(epsilon_unit="absolute"))
