from __future__ import annotations

import math

import pytest
import torch

from lpa_interp.batches import answer_logits, make_batch
from lpa_interp.config import TrainConfig
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.losses import label_log_probs
from lpa_interp.train import TrainerState, draw, train_lpa
from tests.statements import STATEMENTS
from tests.tiny import tiny_model

NEGATIVE = [statement for statement in STATEMENTS if statement.side == "negative"]


def config(**changes: object) -> TrainConfig:
    settings = {
        "preset": "custom",
        "steps": 2,
        "batch_size": 2,
        "pgd_steps": 3,
        "lora_rank": 4,
        "sites": ("hook_embed", "blocks.{0.25,0.5}.hook_mlp_out"),
    }
    return TrainConfig.model_validate({**settings, **changes})


def test_each_preset_trains_and_logs_finite_rows() -> None:
    for preset in ("published-llama2", "published-llama3", "corrected"):
        settings = TrainConfig(preset=preset, steps=1, batch_size=2, pgd_steps=2)  # type: ignore[arg-type]
        _, rows = train_lpa(tiny_model(), STATEMENTS, settings)
        assert [row.step for row in rows] == [1]
        assert all(math.isfinite(getattr(rows[0], name)) for name in rows[0].__slots__)


def test_the_base_weights_do_not_change() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter, _ = train_lpa(model, STATEMENTS, config())
    assert any(update.b.abs().max() > 0 for update in adapter.updates.values())
    adapter.detach()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_training_moves_the_attacked_statements_to_their_desired_answers() -> None:
    model = tiny_model()
    batch = make_batch(model, NEGATIVE, None)

    def margin() -> float:
        with torch.no_grad():
            logits = answer_logits(model, batch)
        log_p = label_log_probs(logits, batch.answers) * batch.answer_mask
        desired, undesired = log_p.sum((1, 2)) / batch.answer_mask.sum((1, 2))
        return (desired - undesired).item()

    before = margin()
    train_lpa(model, STATEMENTS, config(steps=8, learning_rate=3e-3, defence_kl=0.0))
    assert margin() > before + 0.1


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    runs = [
        train_lpa(tiny_model(), STATEMENTS, config(), seed)[0].state_dict() for seed in (0, 0, 1)
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize("restart", [True, False])
def test_a_resumed_run_gives_the_bits_of_one_that_was_not_stopped(restart: bool) -> None:
    settings = config(steps=4, restart_optimizer=restart)
    states: list[TrainerState] = []
    whole, _ = train_lpa(
        tiny_model(), STATEMENTS, settings, on_step=lambda _, state: states.append(state)
    )
    for state in states:
        resumed, rows = train_lpa(tiny_model(), STATEMENTS, settings, resume=state)
        assert len(rows) == 4 - state.step
        expected = whole.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in resumed.state_dict().items())


def test_batches_pass_over_all_statements_before_any_repeats() -> None:
    drawn = [index for step in range(3) for index in draw(6, 2, step, "stream")]
    assert sorted(drawn) == list(range(6))
    assert draw(3, 7, 0, "stream") == draw(3, 7, 0, "stream")
    assert draw(6, 6, 0, "one") != draw(6, 6, 0, "other")


def test_training_needs_both_sides() -> None:
    with pytest.raises(InputError, match="no positive statement"):
        train_lpa(tiny_model(), NEGATIVE, config())


def test_a_site_that_does_not_carry_d_model_is_refused() -> None:
    with pytest.raises(InputError, match="does not carry d_model"):
        train_lpa(tiny_model(), STATEMENTS, config(sites=("blocks.0.attn.hook_q",)))


def test_a_loss_that_is_not_finite_stops_and_names_step_and_place() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.blocks[3].mlp.W_out[0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"step 1: .*blocks\.3\.hook_mlp_out"):
        train_lpa(model, STATEMENTS, config(epsilon_unit="absolute"))
