from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from lpa_interp import trainer as trainer_module
from lpa_interp.batches import answer_logits, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.losses import label_log_probs
from lpa_interp.records import TrainingStep
from lpa_interp.reroute import hidden_states, reroute_loss
from lpa_interp.train import TrainerState, train_lpa
from lpa_interp.trainer import Trainer, draw
from tests.statements import STATEMENTS
from tests.whole_passes import answering_model

NEGATIVE = [statement for statement in STATEMENTS if statement.side == "negative"]
REFAT = {"attack": "refusal_feature", "refusal_feature_every": 2, "refusal_feature_pairs": 2}
REROUTE = {"attack": "none", "defence_reroute": 5, "defence_representation": 5,
           "reroute_schedule": True, "normalise_coefficients": False}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "pgd": {},
    "one optimiser": {"restart_optimizer": False},
    "random": {"attack": "random", "restart_optimizer": False},
    "refat": REFAT,
    "reroute": REROUTE,
    "dpo": {"attack_dpo": 1, "defence_dpo": 1},
}


def config(**changes: object) -> TrainConfig:
    settings = {
        "preset": "custom",
        "steps": 2,
        "batch_size": 2,
        "pgd_steps": 2,
        "updates_per_step": 2,
        "lora_rank": 4,
        "sites": ("hook_embed", "blocks.{0.25,0.5}.hook_mlp_out"),
        "watch_tokens": 2,
    }
    return TrainConfig.model_validate({**settings, **changes})


def untimed(rows: list[TrainingStep]) -> list[dict[str, Any]]:
    """Rows without their times, the only part that chance may change."""
    return [
        {k: v for k, v in dataclasses.asdict(row).items() if not k.endswith("_seconds")}
        for row in rows
    ]


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_each_preset_trains_and_logs_finite_rows() -> None:
    for preset in ("published-llama2", "published-llama3", "corrected"):
        settings = TrainConfig(preset=preset, steps=1, batch_size=2, pgd_steps=2, watch_every=0)  # type: ignore[arg-type]
        _, log = train_lpa(answering_model(), STATEMENTS, settings)
        assert [row.step for row in log.steps] == [1]
        assert all(math.isfinite(getattr(log.steps[0], name)) for name in TrainingStep.__slots__)
        assert [site.hook_name for site in log.sites] == [
            "hook_embed",
            *(f"blocks.{layer}.hook_mlp_out" for layer in (1, 2, 3)),
        ]


def test_the_base_weights_do_not_change() -> None:
    model = answering_model(n_layers=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter, _ = train_lpa(model, STATEMENTS, config())
    assert any(update.b.abs().max() > 0 for update in adapter.updates.values())
    adapter.detach()
    assert same_bits(model.state_dict(), before)


@pytest.mark.parametrize("given", [{}, {"defence_toward": 0, "defence_away": 0, "defence_dpo": 1}])
def test_training_moves_the_attacked_statements_to_their_desired_answers(
    given: dict[str, float],
) -> None:
    model = answering_model(n_layers=2)
    batch = make_batch(model, NEGATIVE, None)

    def margin() -> float:
        with torch.no_grad():
            logits = answer_logits(model, batch)
        log_p = label_log_probs(logits, batch.answers) * batch.answer_mask
        desired, undesired = log_p.sum((1, 2)) / batch.answer_mask.sum((1, 2))
        return (desired - undesired).item()

    before = margin()
    train_lpa(model, STATEMENTS, config(steps=8, learning_rate=3e-3, defence_kl=0, **given))
    assert margin() > before + 0.1


def test_rerouting_turns_the_representations_of_undesired_answers_away() -> None:
    model = answering_model(n_layers=2)
    off = {"defence_toward": 0, "defence_away": 0, "defence_kl": 0}
    batch = make_batch(model, NEGATIVE, None).undesired_only()
    sites = ("blocks.1.hook_resid_pre",)
    before = hidden_states(model, batch, sites)
    settings = config(steps=8, learning_rate=3e-3, reroute_sites=sites, **REROUTE, **off)
    _, log = train_lpa(model, STATEMENTS, settings)
    assert reroute_loss(hidden_states(model, batch, sites), before).item() < 0.9
    assert log.steps[0].objective > log.steps[-1].objective


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(kind: str) -> None:
    runs = [
        train_lpa(answering_model(n_layers=2), STATEMENTS, config(steps=1, **KINDS[kind]), seed)
        for seed in (0, 0, 1)
    ]
    first, same, other = (adapter.state_dict() for adapter, _ in runs)
    assert same_bits(first, same) and not same_bits(first, other)
    assert untimed(runs[0][1].steps) == untimed(runs[1][1].steps)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_resumed_run_gives_the_bits_of_one_that_was_not_stopped(kind: str) -> None:
    settings = config(steps=3, **KINDS[kind])
    states: list[TrainerState] = []
    whole, log = train_lpa(
        answering_model(n_layers=2),
        STATEMENTS,
        settings,
        on_step=lambda _, state: states.append(state),
    )
    assert [state.step for state in states] == [1, 2, 3]
    for state in states:
        resumed, rest = train_lpa(answering_model(n_layers=2), STATEMENTS, settings, resume=state)
        assert same_bits(resumed.state_dict(), whole.state_dict())
        assert untimed(rest.steps) == untimed(log.steps[state.step :])
        assert rest.sites == [row for row in log.sites if row.step > state.step]
        assert rest.watched == [row for row in log.watched if row.step > state.step]


@pytest.mark.parametrize("kind", ["one optimiser", "refat"])
def test_a_trainer_goes_back_to_an_earlier_state_of_its_own(kind: str) -> None:
    trainer = Trainer(
        answering_model(n_layers=2), STATEMENTS, config(steps=4, **KINDS[kind]), 0, None
    )
    for start in (0, 1):
        state = trainer.state()
        assert state.step == start
        expected = trainer.advance()
        after = trainer.state().tensors
        trainer.load(state)
        assert untimed(trainer.advance().steps) == untimed(expected.steps)
        assert same_bits(trainer.state().tensors, after)


def test_each_step_has_its_own_chance_and_its_own_coefficients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds, weights = [], []
    plain, defend = trainer_module.ATTACKERS["none"], trainer_module.accumulate_gradients
    monkeypatch.setitem(
        trainer_module.ATTACKERS,
        "none",
        lambda m, b, inputs: seeds.append(inputs.generator.initial_seed()) or plain(m, b, inputs),
    )
    monkeypatch.setattr(
        trainer_module,
        "accumulate_gradients",
        lambda m, a, inputs: weights.append(inputs.weights) or defend(m, a, inputs),
    )
    for seed in (0, 0, 1):
        settings = config(steps=2, updates_per_step=1, **REROUTE)
        train_lpa(answering_model(n_layers=2), STATEMENTS, settings, seed)
    assert seeds[:2] == seeds[2:4] and len(set(seeds)) == 4
    assert [w["reroute"] for w in weights[:2]] == [5, 5 * 0.75]
    assert [w["representation"] for w in weights[:2]] == [0, 5 * 0.25]


def test_the_refusal_feature_is_read_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    read, steps = trainer_module.refusal_features, []
    trainer = Trainer(answering_model(n_layers=2), STATEMENTS, config(steps=4, **REFAT), 0, None)
    monkeypatch.setattr(
        trainer_module, "refusal_features", lambda *a: steps.append(trainer.step) or read(*a)
    )
    features = []
    for _ in range(4):
        trainer.advance()
        features.append(dict(trainer.features))
    assert steps == [0, 2]
    assert list(features[0]) == [f"blocks.{layer}.hook_resid_pre" for layer in (0, 1)]
    assert [same_bits(features[0], later) for later in features] == [True, True, False, False]


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3]), (2, [1, 3]), (5, [1])])
@pytest.mark.parametrize("attack", ["pgd", "none"])
def test_answers_are_watched_at_the_steps_that_the_study_names(
    every: int, steps: list[int], attack: str
) -> None:
    settings = config(steps=3, watch_every=every, attack=attack)
    trainer = Trainer(answering_model(n_layers=2), STATEMENTS, settings, 0, None)
    for step in (1, 2, 3):
        chosen = [statement.id for statement in trainer.chosen("negative")]
        rows = trainer.advance().watched
        # Under the attack, if there is one, and without it: the control.
        kinds = [True, False] if attack == "pgd" else [False]
        assert [(row.step, row.attacked, row.statement_id) for row in rows] == [
            (step, kind, id) for kind in kinds for id in chosen if step in steps
        ]
        assert all(row.n_tokens <= 2 for row in rows)


def test_watching_changes_nothing_that_is_trained() -> None:
    runs = [
        train_lpa(answering_model(n_layers=2), STATEMENTS, config(watch_every=every, **REFAT))[
            0
        ].state_dict()
        for every in (0, 1)
    ]
    assert same_bits(*runs)


def test_batches_pass_over_all_statements_before_any_repeats() -> None:
    drawn = [index for step in range(3) for index in draw(6, 2, step, "stream")]
    assert sorted(drawn) == list(range(6))
    assert draw(3, 7, 0, "stream") == draw(3, 7, 0, "stream")
    assert draw(6, 6, 0, "one") != draw(6, 6, 0, "other")


def test_training_needs_both_sides() -> None:
    with pytest.raises(InputError, match="no positive statement"):
        train_lpa(answering_model(), NEGATIVE, config())


def test_a_site_that_does_not_carry_d_model_is_refused() -> None:
    with pytest.raises(InputError, match="does not carry d_model"):
        train_lpa(answering_model(), STATEMENTS, config(sites=("blocks.0.attn.hook_q",)))


@pytest.mark.parametrize("attack", ["pgd", "none"])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_place(attack: str) -> None:
    model = answering_model()
    with torch.no_grad():
        model.blocks[3].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"step 1: .*blocks\.3\.hook_mlp_out"):
        train_lpa(model, STATEMENTS, config(epsilon_unit="absolute", attack=attack, watch_every=0))
