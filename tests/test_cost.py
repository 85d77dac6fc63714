from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.cost import (
    Positions,
    Size,
    attack_iteration_flops,
    forward_flops,
    memory,
    model_size,
    positions,
    update_flops,
)
from lpa_interp.attack import attack_loss
from lpa_interp.batches import answer_logits
from lpa_interp.config import TrainConfig
from lpa_interp.trainer import Trainer
from tests.statements import STATEMENTS
from tests.tiny import tiny_model

CONFIG = TrainConfig(preset="published-llama3", batch_size=3, lora_rank=4)


def counted(frozen: bool) -> tuple[float, Size, Positions]:
    """Operations that PyTorch counts in forward and backward of the attack's loss."""
    model = tiny_model()
    trainer = Trainer(model, STATEMENTS, CONFIG, 0, None)
    batch = trainer.batch("negative")
    shape = (*batch.attack_mask("both").shape, model.cfg.d_model)
    deltas = {site: torch.zeros(shape, requires_grad=True) for site in trainer.sites}
    with trainer.adapter.frozen() if frozen else trainer.adapter.shared():
        attack_loss(model, batch, deltas, CONFIG)  # merged weights are made once per attack
        with FlopCounterMode(display=False) as counter:
            attack_loss(model, batch, deltas, CONFIG)[0].backward()
    return counter.get_total_flops(), model_size(model, CONFIG), positions(batch)


def test_an_attack_iteration_costs_what_the_formula_says() -> None:
    flops, size, at = counted(frozen=True)
    assert flops == pytest.approx(attack_iteration_flops(size, at), rel=0.02)


def test_an_update_costs_what_the_formula_says() -> None:
    flops, size, at = counted(frozen=False)
    assert flops == pytest.approx(update_flops(size, at), rel=0.02)


def test_a_plain_pass_costs_what_the_formula_says() -> None:
    model = tiny_model()
    system = "You are a helpful assistant. Tell me how to open the lock."
    trainer = Trainer(model, STATEMENTS, CONFIG, 0, system)
    batch = trainer.batch("positive").desired_only()
    at = positions(batch, plain=True)
    assert at.run < positions(batch).run
    with torch.no_grad(), trainer.adapter.frozen():
        answer_logits(model, batch)  # merged weights are made once
        with FlopCounterMode(display=False) as counter:
            answer_logits(model, batch)
    expected = forward_flops(model_size(model, CONFIG), at)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)


def test_a_forward_pass_is_twice_the_weights_per_token_and_attention() -> None:
    size = Size(blocks=100, unembedding=10, adapter=0, n_layers=2, d_attention=4)
    at = Positions(run=12, read=3, row=6)
    assert forward_flops(size, at) == 2 * 100 * 12 + 2 * 10 * 3 + 4 * 2 * 4 * 6 * 12


def test_an_8b_model_in_bfloat16_trains_within_60_gib() -> None:
    size = Size(
        blocks=32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336),
        unembedding=4096 * 128_256,
        adapter=32 * 64 * (4 * 4096 + 2 * (4096 + 1024) + 2 * (4096 + 14336)),
        n_layers=32,
        d_attention=4096,
    )
    at = Positions(run=8 * 61, read=144, row=61)
    assert memory(size, at, 4096, 14336, 128_256, width=2).peak < 60 * 2**30
