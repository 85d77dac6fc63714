"""What two stages read of a model is read once, and never taken for something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import reads
from experiments.progress import Reporter
from experiments.workbench import Workbench
from lpa_interp.config import ModelConfig, OrganismConfig, ProbeConfig, Study
from lpa_interp.errors import InputError
from lpa_interp.runs import RunDirectory
from probes import activations
from tests.tiny import tiny_folder

Bench = Callable[..., Workbench]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("reads") / "model")


@pytest.fixture
def bench(model_folder: Path, tmp_path: Path) -> Bench:
    """Makes a workbench of its own each time, as a new call of the command does."""

    def make(**probes: Any) -> Workbench:
        study = Study(
            model=ModelConfig(name=str(model_folder), device="cpu"),
            organism=OrganismConfig(enabled=False),
            probes=ProbeConfig(ablation_prompts=4, **probes),
        )
        return Workbench(study, RunDirectory(tmp_path / "run"), Reporter(quiet=True))

    return make


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of every reading that runs the model."""
    found: list[int] = []
    original = activations._stream

    def counted(model: Any, rows: Any, *arguments: Any) -> Any:
        found.append(len(rows))
        return original(model, rows, *arguments)

    monkeypatch.setattr(activations, "_stream", counted)
    return found


def test_a_second_call_of_the_command_reads_nothing_again(bench: Bench, passes: list[int]) -> None:
    first = reads.request_activations(bench(), "base", "test", (-1,))
    assert passes == [4, 4]
    one = bench()
    again = reads.request_activations(one, "base", "test", (-1,))
    reads.request_activations(one, "base", "test", (-1,))
    assert passes == [4, 4]
    for side in reads.SIDES:
        for name in first[side].hook_names:
            np.testing.assert_array_equal(first[side].at(name), again[side].at(name))


def test_other_texts_positions_and_adapters_are_read_anew(bench: Bench, passes: list[int]) -> None:
    one = bench()
    reads.request_activations(one, "base", "test", (-1,))
    for split, positions, limit in (
        ("validation", (-1,), 4),
        ("test", (-2, -1), 4),
        ("test", (-1,), 3),
    ):
        before = len(passes)
        reads.request_activations(one, "base", split, positions, limit)
        assert len(passes) == before + 2
    adapter = one.run / "adapter"
    adapter.mkdir(parents=True)
    keys = [reads._parts(one, "lpa", one.base)]
    for content in (b"one", b"two"):
        (adapter / "adapter_model.safetensors").write_bytes(content)
        keys.append(reads._parts(one, "lpa", one.base))
    assert len({str(key) for key in keys}) == 3
    assert reads._parts(one, "base", one.base)["adapter"] == []


def test_a_write_that_was_killed_is_read_again_and_its_rest_removed(
    bench: Bench, passes: list[int]
) -> None:
    one = bench()
    one.run.claim("study")
    reads.request_activations(one, "base", "test", (-1,))
    folder = one.run / reads.FOLDER
    kept = sorted(folder.iterdir())
    half = folder / f".{kept[0].name}.abc123"
    half.write_bytes(kept[0].read_bytes()[:100])
    kept[0].unlink()
    two = bench()
    two.run.claim("study")
    assert not half.exists()
    reads.request_activations(two, "base", "test", (-1,))
    assert len(passes) == 3 and sorted(folder.iterdir()) == kept


def test_a_damaged_file_is_never_taken_for_activations(bench: Bench) -> None:
    one = bench()
    reads.request_activations(one, "base", "test", (-1,))
    path = next(iter((one.run / reads.FOLDER).iterdir()))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="is damaged"):
        reads.request_activations(bench(), "base", "test", (-1,))


def test_nothing_is_left_when_both_stages_are_done(bench: Bench, passes: list[int]) -> None:
    one = bench()
    reads.statement_activations(one, "base")
    assert (one.run / reads.FOLDER).is_dir() and one.reads
    reads.forget_reads(one)
    assert not (one.run / reads.FOLDER).exists() and not one.reads
    reads.forget_reads(one)  # again does no harm
    reads.statement_activations(one, "base")
    assert len(passes) == 2


def test_neutral_prompts_are_read_with_the_name_of_their_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    read, source = reads.neutral_activations(bench(), "base")
    assert (read.n, read.positions, source) == (4, (-1,), "sentences of the shipped text")
