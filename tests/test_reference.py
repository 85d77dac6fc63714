from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.reference import ReferenceTrainer
from lpa_interp.attack import radii
from lpa_interp.config import TrainConfig
from lpa_interp.export import load_adapter, save_adapter
from lpa_interp.model import load_model
from lpa_interp.train import Trainer
from tests.statements import STATEMENTS
from tests.tiny import tiny_folder

pytest.importorskip("peft")


@pytest.mark.parametrize("preset", ["published-llama2", "published-llama3", "corrected"])
def test_losses_and_adapter_are_those_of_the_plain_recipe_step_by_step(
    preset: str, tmp_path: Path
) -> None:
    sizes = {"steps": 3, "batch_size": 2, "pgd_steps": 4, "lora_rank": 4}
    # A KL divided by itself has a gradient of rounding errors near 0: no two programs agree on it.
    config = TrainConfig.model_validate({"preset": preset, "normalise_kl": False, **sizes})
    model = load_model(str(tiny_folder(tmp_path / "tiny")), device="cpu")
    trainer = Trainer(model, STATEMENTS, config, 0, None)
    save_adapter(model, trainer.adapter, tmp_path / "start")
    location = str(tmp_path / "tiny")
    reference = ReferenceTrainer(location, tmp_path / "start", trainer.sites, config)
    for _ in range(3):
        batch, retain = trainer.batch("negative"), trainer.batch("positive").desired_only()
        with trainer.adapter.frozen():
            epsilons = radii(model, batch, trainer.sites, config)
        theirs, row = reference.advance(batch, retain, epsilons), trainer.advance()
        for name in ("attack_toward", "attack_away", "defence_toward", "defence_away", "retain"):
            assert getattr(row, name) == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    reference.model.save_pretrained(tmp_path / "end")
    expected = load_adapter(load_model(location, device="cpu"), tmp_path / "end").state_dict()
    # AdamW turns a gradient near 0 into a whole step of either sign: compare as a whole.
    ours = torch.cat([v.flatten() for k, v in sorted(trainer.adapter.state_dict().items())])
    theirs_end = torch.cat([v.flatten() for k, v in sorted(expected.items())])
    assert torch.dist(ours, theirs_end) <= 1e-3 * theirs_end.norm()
