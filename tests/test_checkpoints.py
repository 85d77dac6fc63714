from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.checkpoints import attack_bases, read_checkpoint, write_checkpoint
from lpa_interp.config import Study
from lpa_interp.errors import InputError
from lpa_interp.records import Direction
from lpa_interp.trainer import TrainerState
from probes import save_directions
from tests.tiny import tiny_model

SITES = ["hook_embed", "blocks.1.hook_mlp_out", "blocks.3.hook_mlp_out"]


def direction(name: str, layer: int, axis: int) -> Direction:
    return Direction(
        name=name,
        model="base",
        hook_name=f"blocks.{layer}.hook_resid_pre",
        layer=layer,
        position=-1,
        method="mean_difference",
        raw_norm=1.0,
        n=8,
        split="all",
        vector=np.eye(32, dtype=np.float32)[axis],
    )


def bench(folder: Path, **settings: Any) -> Any:
    """What `attack_bases` reads of a workbench."""
    path = folder / "directions.safetensors"
    layers = [("agree", 0, 0), ("agree", 2, 1), ("refusal", 2, 2), ("refusal", 3, 3)]
    save_directions(path, [direction(*fields) for fields in layers])
    study = Study.model_validate({"train": {"sites": SITES, "subspace": path, **settings}})
    return SimpleNamespace(study=study, base=tiny_model())


def axes(basis: torch.Tensor) -> list[int]:
    """Which coordinate axes an orthonormal basis spans."""
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)))
    return torch.nonzero(basis.abs().sum(0) > 0.5).flatten().tolist()


def test_a_site_takes_the_directions_of_the_residual_stream_it_writes_into(tmp_path: Path) -> None:
    bases = attack_bases(bench(tmp_path))
    assert bases is not None and list(bases) == SITES
    # The embedding writes layer 0's stream, the MLP of layer 1 that of layer 2; after the last
    # layer there is none, and the nearest is that of layer 3.
    assert [axes(bases[name]) for name in SITES] == [[0], [1, 2], [3]]


def test_only_the_named_directions_confine_the_attack(tmp_path: Path) -> None:
    bases = attack_bases(bench(tmp_path, subspace_names=("agree",)))
    assert bases is not None
    assert [axes(bases[name]) for name in SITES] == [[0], [1], [1]]
    with pytest.raises(InputError, match="there: agree, refusal"):
        attack_bases(bench(tmp_path, subspace_names=("warmth",)))


def test_a_study_without_a_subspace_has_no_bases() -> None:
    assert attack_bases(SimpleNamespace(study=Study(), base=None)) is None  # type: ignore[arg-type]


def test_a_checkpoint_comes_back_bit_for_bit_and_only_for_the_inputs_that_made_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train" / "checkpoint.safetensors"
    assert read_checkpoint(path, "inputs") is None
    tensors = {"0.q.a": torch.randn(3, 4).T, "optimizer.0.step": torch.tensor(5.0)}
    write_checkpoint(path, TrainerState(3, tensors), "inputs")
    found = read_checkpoint(path, "inputs")
    assert found is not None and found.step == 3
    assert {name: value.tolist() for name, value in found.tensors.items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
    assert read_checkpoint(path, "other inputs") is None


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"half of a")
    with pytest.raises(InputError, match="is not a checkpoint") as caught:
        read_checkpoint(path, "inputs")
    assert "\n" not in str(caught.value)
