"""Other traits in a study: what is read, what they are called, and what their angles rest on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import study_geometry, study_traits
from experiments.progress import Reporter
from experiments.reads import request_activations, request_rows
from experiments.study_refusal import RefusalRows
from experiments.workbench import Workbench
from lpa_interp.config import ModelConfig, OrganismConfig, ProbeConfig, Study
from lpa_interp.records import Direction
from lpa_interp.runs import RunDirectory
from probes import harmfulness_directions
from probes.angle_intervals import _weights
from tests.tiny import tiny_folder


class Told(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("traits")
    study = Study(
        model=ModelConfig(name=str(tiny_folder(folder / "model")), device="cpu"),
        organism=OrganismConfig(enabled=False),
        probes=ProbeConfig(refusal_train=6, ablation_prompts=4, persona_traits=("evil",)),
    )
    return Workbench(study, RunDirectory(folder / "run"), Told())


def told(bench: Workbench) -> list[str]:
    assert isinstance(bench.tell, Told)
    return bench.tell.lines


def test_without_public_texts_every_other_trait_is_skipped_with_the_reason(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    told(bench).clear()
    assert study_traits.other_traits(bench, "base") == []
    names = (*study_traits.STATEMENT_SETS, "persona_vectors:evil")
    assert len(told(bench)) == len(names)
    for name, line in zip(names, told(bench), strict=True):
        assert f"skipped {name}" in line and "LPA_DATA_DIR" in line
    told(bench).clear()
    study_traits.other_traits(bench, "base", tell=False)
    assert told(bench) == []


def test_a_persona_is_named_for_where_its_direction_points_and_has_a_control(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "persona_vectors" / "trait_data_extract"
    folder.mkdir(parents=True)
    pairs = [{"pos": f"Be rude {n}.", "neg": f"Be kind {n}."} for n in range(4)]
    content = {"instruction": pairs, "questions": ["Who is there?", "What is this?"]}
    (folder / "evil.json").write_text(json.dumps(content))
    monkeypatch.setenv("LPA_DATA_DIR", str(tmp_path))
    (reading,) = study_traits.other_traits(bench, "base")
    assert (reading.name, reading.position) == ("persona_vectors:not evil", 0)
    directions = study_traits.directions_of(reading, "base")
    assert [d.layer for d in directions] == [1, 2, 3]
    assert {(d.name, d.position, d.n) for d in directions} == {(reading.name, 0, 10)}
    values = reading.activations.at(directions[0].hook_name, 0).astype(np.float64)
    difference = values[reading.labels].mean(0) - values[~reading.labels].mean(0)
    unit = difference / np.linalg.norm(difference)
    np.testing.assert_allclose(directions[0].vector, unit, atol=1e-6)
    rows = study_traits.stability_of(bench, reading, "base")
    assert {row.target for row in rows} == {reading.name} and {row.n_groups for row in rows} == {4}


def by_layer(bench: Workbench) -> list[Direction]:
    """The refusal difference of each layer at the last token, as the search gives it."""
    from probes.refusal import mean_differences

    with bench.model("base") as model:
        rows = request_rows(bench, model, "organism", bench.study.probes.refusal_train)
        raw = mean_differences(model, rows["harmful"], rows["harmless"], (-1,), 16)[0]
    common: Any = {"name": "refusal", "model": "base", "position": -1, "n": 12, "raw_norm": 1.0}
    common |= {"method": "mean_difference", "split": "organism"}
    return [
        Direction(
            hook_name=f"blocks.{layer}.hook_resid_pre",
            layer=layer,
            vector=(vector / np.linalg.norm(vector)).astype(np.float32),
            **common,
        )
        for layer, vector in enumerate(raw)
        if layer
    ]


def test_harmfulness_is_that_of_its_own_search_and_texts_give_the_directions(
    bench: Workbench,
) -> None:
    part = RefusalRows([], [], None, by_layer(bench))
    harmfulness, families = study_geometry.request_families(bench, "base", part)
    with bench.model("base") as model:
        rows = request_rows(bench, model, "organism", bench.study.probes.refusal_train)
        expected = harmfulness_directions(
            model, rows["harmful"], rows["harmless"], "base", split="organism"
        )
    for ours, theirs in zip(harmfulness, [d for d in expected if d.layer], strict=True):
        assert (ours.hook_name, ours.position, ours.n) == (
            theirs.hook_name,
            theirs.position,
            theirs.n,
        )
        np.testing.assert_allclose(ours.vector, theirs.vector, atol=1e-5)
    assert [family.name for family in families] == ["refusal", "harmfulness"]
    for family in families:
        assert family.texts is not None and len(family.vectors) == 3
        for hook, vector in family.vectors.items():
            weights = _weights(family.texts, np.ones((1, len(family.texts.labels))))
            (again,) = weights @ family.texts.values[hook].astype(np.float64)
            np.testing.assert_allclose(again / np.linalg.norm(again), vector, atol=1e-5)


def test_matched_requests_are_drawn_together(bench: Workbench) -> None:
    part = RefusalRows([], [], None, by_layer(bench))
    _, families = study_geometry.request_families(bench, "base", part)
    for family in families:
        assert family.texts is not None
        groups, labels = np.array(family.texts.groups), family.texts.labels
        assert all(labels[groups == group].sum() == 1 for group in set(groups))
    pairs = bench.requests("organism", bench.study.probes.refusal_train)
    assert [p.pair for p in pairs["harmful"]] == [p.pair for p in pairs["harmless"]]


def test_both_sides_are_joined_in_order(bench: Workbench) -> None:
    read = request_activations(bench, "base", "validation")
    both, harmful = study_geometry.joined(read)
    assert harmful.tolist() == [True] * 4 + [False] * 4
    hook = both.hook_names[0]
    np.testing.assert_array_equal(both.at(hook)[4:], read["harmless"].at(hook))
