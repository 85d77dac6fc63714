"""LPA, its controls and its rivals by name: settings, documentation, and a few steps of each."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from experiments.pipeline import study_toml
from experiments.workbench import study_statements
from lpa_interp.config import Study, TrainConfig
from lpa_interp.errors import InputError
from lpa_interp.methods import METHODS, PRESETS, method_settings
from lpa_interp.records import TraitStatement
from lpa_interp.study_file import load_study
from lpa_interp.train import TrainingLog, train_lpa
from tests.tiny import tiny_model

NEEDS_DATA = [
    pytest.mark.data,
    pytest.mark.skipif("LPA_DATA_DIR" not in os.environ, reason="no public data on this machine"),
]
CASES = [
    pytest.param(name, marks=NEEDS_DATA if name in ("lat-advbench", "lat-harmbench") else [])
    for name in METHODS
]
SHORT = {"steps": 2, "batch_size": 2, "pgd_steps": 2, "updates_per_step": 2, "lora_rank": 4,
         "watch_tokens": 2}  # fmt: skip
README = Path(__file__).parents[1] / "README.md"


def refusal(overrides: dict[str, Any]) -> str:
    """The one line that a study is refused with."""
    with pytest.raises(InputError) as caught:
        load_study(None, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_study_with_the_settings_it_fixes(name: str) -> None:
    study, plain = Study(method=name), Study()
    for table in ("traits", "train"):
        fixed = getattr(METHODS[name], table)
        for key, default in getattr(plain, table):
            assert getattr(getattr(study, table), key) == fixed.get(key, default)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_wins_over_a_preset_and_keeps_the_rest_of_it(name: str, preset: str) -> None:
    study = load_study(None, {"method": name, "train.preset": preset})
    alone = TrainConfig.model_validate({"preset": preset})
    for key, default in alone:
        assert getattr(study.train, key) == METHODS[name].train.get(key, default)


@pytest.mark.parametrize("name", METHODS)
def test_a_resolved_study_written_and_read_again_is_the_same_study(
    name: str, tmp_path: Path
) -> None:
    study = load_study(None, {"method": name, "train.preset": "published-llama2", "seed": 3})
    path = tmp_path / "study.toml"
    path.write_text(study_toml(study), encoding="utf-8")
    assert load_study(path) == study
    assert Study.model_validate(study.model_dump()) == study
    assert Study(**dict(study)) == study  # parts that are built already, as in a notebook


def test_a_setting_that_the_method_fixes_otherwise_is_refused_in_one_line() -> None:
    message = refusal({"method": "sft", "train.attack": "pgd"})
    assert "method 'sft'" in message and "train.attack to 'none'" in message and "'pgd'" in message
    with pytest.raises(ValidationError, match=r"sets train\.attack"):
        Study(method="sft", train={"attack": "pgd"})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"sets train\.attack"):
        Study(method="sft", train=TrainConfig(attack="pgd"))
    traits = refusal({"method": "refat", "traits.source": "builtin"})
    assert "traits.source to 'requests'" in traits
    assert load_study(None, {"method": "sft", "train.attack": "none"}) == Study(method="sft")


def test_an_unknown_method_lists_what_there_is() -> None:
    message = refusal({"method": "lapa"})
    assert "method 'lapa': no such method" in message
    assert all(name in message for name in METHODS)
    with pytest.raises(ValueError, match="no such method"):
        method_settings("lapa", {})


def test_a_mistake_in_a_table_is_still_named_with_its_key() -> None:
    assert "train.step: unknown key" in refusal({"method": "sft", "train.step": 5})
    assert "train: 3 is not allowed" in refusal({"method": "sft", "train": 3})


def test_the_readme_has_a_row_for_every_method_with_its_source() -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    table = {row[0].strip("`"): row[1:] for row in rows if len(row) == 3}
    for name, method in METHODS.items():
        assert name in table, f"README.md has no row for the method {name}"
        assert table[name][-1] == method.source, name


def short(method: str) -> Study:
    """A study of two small steps; a method that fixes a setting keeps it."""
    settings = {key: value for key, value in SHORT.items() if key not in METHODS[method].train}
    return load_study(None, {"method": method, **{f"train.{k}": v for k, v in settings.items()}})


def few(study: Study, n: int = 3) -> list[TraitStatement]:
    """The first statements of each side."""
    statements = study_statements(study)
    sides = [[s for s in statements if s.side == side] for side in ("positive", "negative")]
    return [statement for side in sides for statement in side[:n]]


@pytest.mark.parametrize("name", CASES)
def test_every_method_trains_and_logs_finite_rows(name: str) -> None:
    study = short(name)
    adapter, log = train_lpa(tiny_model(n_layers=2), few(study), study.train)
    trained = any(update.b.any() for update in adapter.updates.values())
    if name == "none":
        assert log == TrainingLog() and not trained
        return
    assert trained and [row.step for row in log.steps] == [1, 2]
    for row in [*log.steps, *log.sites]:
        values = [getattr(row, field) for field in row.__slots__]
        assert all(math.isfinite(value) for value in values if not isinstance(value, str))
    assert log.watched and {row.step for row in log.watched} == {1}
    attack = study.train.attack
    assert {row.attacked for row in log.watched} == {attack != "none", False}
    assert all((row.perturbation_norm > 0) == (attack in ("pgd", "random")) for row in log.steps)
    for row in log.steps:
        moved = (row.attack_toward, row.attack_away) != (
            row.attack_toward_start,
            row.attack_away_start,
        )
        assert moved == (attack != "none") or attack == "refusal_feature"
        assert row.attack_toward_after != row.attack_toward


def test_methods_that_differ_in_the_attack_alone_share_batches_and_start() -> None:
    logs = {}
    for name in ("lpa", "random-perturbation"):
        study = short(name)
        logs[name] = train_lpa(tiny_model(n_layers=2), few(study), study.train)[1].steps
    first, second = logs["lpa"][0], logs["random-perturbation"][0]
    assert first.attack_toward_start == second.attack_toward_start
    assert first.perturbation_norm == pytest.approx(second.perturbation_norm, rel=1e-5)
    assert first.attack_toward < second.attack_toward
