from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lpa_interp.config import PRESETS, Study, TrainConfig
from lpa_interp.errors import InputError
from lpa_interp.study_file import load_study, setting_lines


def study_file(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, overrides: dict[str, Any] | None = None) -> str:
    """The one line that a study is refused with."""
    with pytest.raises(InputError) as caught:
        load_study(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_file_gives_the_defaults() -> None:
    assert load_study(None) == Study()


def test_a_file_sets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, 'name = "mine"\n[train]\nsteps = 5\n'))
    assert (study.name, study.train.steps) == ("mine", 5)
    assert study.train.batch_size == TrainConfig().batch_size
    assert study.probes == Study().probes


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("[train]\nstep = 5\n", "train.step:", "steps"),
        ("[training]\n", "training:", "train"),
        ("[model]\ndtyp = 'float32'\n", "model.dtyp:", "dtype"),
    ],
)
def test_an_unknown_key_names_the_allowed_ones(
    text: str, key: str, allowed: str, tmp_path: Path
) -> None:
    message = refusal(study_file(tmp_path, text))
    assert "study.toml" in message and key in message and "unknown key" in message
    assert allowed in message.split("allowed here:")[1].replace(")", "").replace(",", "").split()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("train.epsilon = 0", "train.epsilon: 0 is not allowed: input should be greater than 0"),
        ("train.epsilon = -1.5", "train.epsilon: -1.5 is not allowed"),
        ("train.epsilon = nan", "train.epsilon: nan is not allowed"),
        ("train.epsilon = 'big'", "train.epsilon: 'big' is not allowed"),
        ("train.preset = 'mine'", "'corrected', 'published-llama2'"),
        ("train.preset = ['mine']", "train.preset"),
        ("train.lora_targets = ['q', 'x']", "train.lora_targets.1: 'x' is not allowed"),
        ("probes.drop_last_layers = 1.0", "probes.drop_last_layers"),
        ("train.steps = 2.5", "train.steps: 2.5 is not allowed"),
        ("train = 3", "train: 3 is not allowed"),
        ("train.attack = 'strong'", "'pgd', 'random', 'refusal_feature' or 'none'"),
        ("train.constraint = 'l1'", "'l2_token', 'l2_sequence', 'linf' or 'low_rank'"),
        ("train.refusal_feature_probability = 1.1", "less than or equal to 1"),
        ("train.attack_toward = 0\ntrain.attack_away = 0", "attack_dpo are all 0"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line(table: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(study_file(tmp_path, table))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_the_study_leaves_open(preset: str) -> None:
    filled = TrainConfig.model_validate({"preset": preset})
    for key, value in PRESETS[preset].items():
        assert getattr(filled, key) == value
    changed = TrainConfig.model_validate({"preset": preset, "epsilon": 2.5, "steps": 3})
    assert (changed.epsilon, changed.steps) == (2.5, 3)
    assert changed.learning_rate == filled.learning_rate


def test_the_published_presets_hold_the_published_numbers() -> None:
    llama2 = TrainConfig.model_validate({"preset": "published-llama2"})
    assert (llama2.epsilon, llama2.epsilon_unit, llama2.pgd_steps) == (6.0, "absolute", 16)
    assert (llama2.pgd_learning_rate, llama2.learning_rate) == (5e-2, 2e-5)
    assert (llama2.defence_sft, llama2.defence_kl, llama2.attack_tokens) == (1.5, 0.0, "prompt")
    llama3 = TrainConfig.model_validate({"preset": "published-llama3"})
    assert (llama3.pgd_learning_rate, llama3.learning_rate) == (1e-3, 8e-5)
    assert (llama3.batch_size, llama3.attack_tokens) == (1, "both")
    for preset in (llama2, llama3):
        assert (preset.lora_rank, preset.lora_alpha, preset.updates_per_step) == (64, 8.0, 4)
        assert preset.lora_targets == ("q", "k", "v", "o", "up", "down")


def test_overrides_win_over_the_file_and_the_preset(tmp_path: Path) -> None:
    path = study_file(tmp_path, "[train]\nsteps = 5\npreset = 'published-llama2'\n")
    study = load_study(path, {"train.steps": 7, "train.epsilon": 1.5, "seed": 3})
    assert (study.train.steps, study.train.epsilon, study.seed) == (7, 1.5, 3)
    assert study.train.learning_rate == 2e-5


def test_a_mistaken_override_names_its_key(tmp_path: Path) -> None:
    assert "train.step: unknown key" in refusal(None, {"train.step": 5})
    assert "'steps' is a value" in refusal(
        study_file(tmp_path, "train.steps = 5"), {"train.steps.x": 1}
    )


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "missing.toml")
    assert "cannot be read" in refusal(tmp_path)
    assert "is not TOML" in refusal(study_file(tmp_path, "steps: 5"))
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe")
    assert "is not TOML" in refusal(tmp_path / "study.toml")


def test_a_study_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Study().train.steps = 5  # type: ignore[misc]


def test_every_setting_has_a_line() -> None:
    lines = setting_lines()
    assert "train.epsilon = 0.2" in lines and "seed = 0" in lines
    for table, field in Study.model_fields.items():
        for key in getattr(field.annotation, "model_fields", {}):
            assert any(line.startswith(f"{table}.{key} = ") for line in lines)


def test_coefficients_are_divided_by_their_sum_where_the_study_says_so() -> None:
    given = {"attack_toward": 1.0, "attack_away": 3.0, "attack_dpo": 4.0}
    kept = {"defence_toward": 2.0, "defence_away": 0.0, "defence_kl": 6.0, "defence_dpo": 8.0}
    scaled = TrainConfig.model_validate({**given, **kept})
    assert scaled.attack_coefficients() == {"toward": 1 / 8, "away": 3 / 8, "dpo": 4 / 8}
    shares = scaled.defence_coefficients(0.3)
    assert (shares["toward"], shares["kl"], shares["dpo"]) == (2 / 16, 6 / 16, 8 / 16)
    assert sum(shares.values()) == pytest.approx(1)
    plain = TrainConfig.model_validate({**given, **kept, "normalise_coefficients": False})
    assert plain.attack_coefficients() == {"toward": 1.0, "away": 3.0, "dpo": 4.0}
    assert plain.defence_coefficients(0.3)["kl"] == 6.0


@pytest.mark.parametrize(
    ("progress", "reroute", "representation"), [(0.0, 10.0, 0.0), (0.5, 7.5, 2.5), (1.0, 5.0, 5.0)]
)
@pytest.mark.parametrize("normalise", [True, False])
def test_the_reroute_schedule_fades_one_term_and_raises_the_other(
    progress: float, reroute: float, representation: float, normalise: bool
) -> None:
    settings = {
        "defence_toward": 2.0,
        "defence_away": 0.0,
        "defence_kl": 0.0,
        "defence_reroute": 10.0,
        "defence_representation": 10.0,
        "normalise_coefficients": normalise,
    }
    config = TrainConfig.model_validate({**settings, "reroute_schedule": True})
    total = 2.0 + reroute + representation if normalise else 1.0
    weights = config.defence_coefficients(progress)
    assert weights["reroute"] == pytest.approx(reroute / total)
    assert weights["representation"] == pytest.approx(representation / total)
    assert weights["toward"] == pytest.approx(2.0 / total)
    fixed = TrainConfig.model_validate(settings).defence_coefficients(progress)
    assert fixed["reroute"] == fixed["representation"] == (10 / 22 if normalise else 10)


def test_a_defence_that_nothing_drives_is_refused() -> None:
    off = {f"train.defence_{name}": 0 for name in ("toward", "away", "kl")}
    assert "all defence coefficients are 0" in refusal(None, off)
    # Without its schedule this term is on from the start; with it, from the second step.
    for schedule in (True, False):
        load_study(None, {**off, "train.defence_representation": 1,
                          "train.reroute_schedule": schedule})  # fmt: skip


def test_no_updates_are_no_steps_that_change_the_model() -> None:
    assert TrainConfig(steps=7).total_steps == 7
    assert TrainConfig(steps=7, updates_per_step=0).total_steps == 0
