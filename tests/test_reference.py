from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.reference import ReferenceTrainer
from lpa_interp.attack import measure_sites, pgd
from lpa_interp.config import TrainConfig
from lpa_interp.export import load_adapter, save_adapter
from lpa_interp.model import load_hugging_face, load_model
from lpa_interp.trainer import Trainer
from tests.statements import AGREE, DISAGREE, STATEMENTS
from tests.tiny import tiny_hugging_face, tiny_tokenizer

pytest.importorskip("peft")

SIZES = {"steps": 3, "batch_size": 2, "pgd_steps": 4, "lora_rank": 4, "watch_every": 0}
LOSSES = ("attack_toward", "attack_away", "defence_toward", "defence_away", "retain")


def answering_folder(folder: Path, kind: str) -> Path:
    """A saved tiny model that gives the tokens of its answers some probability.

    A random one gives each less than the cutoff below which there is no away loss. All tokens
    get a constant, which the unembedding reads as the answers'.
    """
    model, tokenizer = tiny_hugging_face(kind), tiny_tokenizer()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 1.0
        model.lm_head.weight[tokenizer(AGREE + DISAGREE + "<|end|>").input_ids, 0] += 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pair(folder: Path, preset: str, kind: str = "llama") -> tuple[Trainer, ReferenceTrainer]:
    """Our trainer and the plain one, on the same weights and from the same adapter."""
    # A KL divided by itself has a gradient of rounding errors near 0: no two programs agree on it.
    config = TrainConfig.model_validate({"preset": preset, "normalise_kl": False, **SIZES})
    model = load_model(str(answering_folder(folder / "tiny", kind)), device="cpu")
    trainer = Trainer(model, STATEMENTS, config, 0, None)
    save_adapter(model, trainer.adapter, folder / "start")
    base = load_hugging_face(str(folder / "tiny"), "float32")
    return trainer, ReferenceTrainer(base, folder / "start", trainer.sites, config)


def radii(trainer: Trainer) -> dict[str, float]:
    """The radius of each site at the trainer's current step."""
    with trainer.adapter.frozen():
        sites = measure_sites(
            trainer.model, trainer.batch("negative"), trainer.sites, trainer.config
        )
    return {name: site.radius for name, site in sites.items()}


def vector(state: dict[str, Tensor]) -> Tensor:
    """All weights of an adapter as one vector."""
    return torch.cat([value.flatten() for _, value in sorted(state.items())])


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("published-llama2", "llama"),
        ("published-llama3", "llama"),
        ("corrected", "llama"),
        ("corrected", "qwen2"),
    ],
)
def test_losses_and_adapter_are_those_of_the_plain_recipe_step_by_step(
    preset: str, kind: str, tmp_path: Path
) -> None:
    trainer, reference = pair(tmp_path, preset, kind)
    for _ in range(3):
        batch, retain = trainer.batch("negative"), trainer.batch("positive").desired_only()
        theirs = reference.advance(batch, retain, radii(trainer))
        row = trainer.advance().steps[0]
        for name in LOSSES:
            assert getattr(row, name) == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
            assert theirs[name] > (0.01 if name != "retain" else 0.0)
    reference.model.save_pretrained(tmp_path / "end")
    location = str(tmp_path / "tiny")
    end = load_adapter(load_model(location, device="cpu"), tmp_path / "end").state_dict()
    # AdamW turns a gradient near 0 into a whole step of either sign: compare as a whole.
    ours, theirs_end = vector(trainer.adapter.state_dict()), vector(end)
    start = vector(
        load_adapter(load_model(location, device="cpu"), tmp_path / "start").state_dict()
    )
    assert torch.dist(ours, theirs_end) <= 1e-3 * theirs_end.norm()
    assert torch.dist(ours, theirs_end) <= 0.05 * torch.dist(ours, start)


@pytest.mark.parametrize("preset", ["published-llama2", "published-llama3", "corrected"])
def test_the_perturbation_is_that_of_the_plain_attack(preset: str, tmp_path: Path) -> None:
    trainer, reference = pair(tmp_path, preset)
    batch = trainer.batch("negative")
    expected, toward, away = reference.attack(batch, radii(trainer))
    with trainer.adapter.frozen():
        found = pgd(trainer.model, batch, trainer.sites, trainer.config)
    assert (found.reached.toward, found.reached.away) == pytest.approx((toward, away), rel=1e-4)
    for site, delta in found.deltas.items():
        # As for the adapter: single coordinates with a gradient near 0 may go either way.
        assert torch.dist(delta, expected[site]) <= 1e-2 * expected[site].norm()
