from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from experiments.cli import main
from lpa_interp.records import Completion, Score, StageTime
from lpa_interp.runs import read_rows
from tests.tiny import tiny_folder

STUDY = """
name = "tiny"
[model]
name = "{model}"
device = "cpu"
[organism]
enabled = {organism}
steps = 2
answer_tokens = 4
lora_rank = 4
[train]
steps = {steps}
batch_size = 2
pgd_steps = {pgd_steps}
lora_rank = 4
watch_every = 2
watch_tokens = 4
[evaluate]
benchmarks = ["requests"]
limit = 6
max_new_tokens = 4
perplexity_tokens = 256
[probes]
refusal_train = 6
refusal_validation = 6
ablation_prompts = 6
n_permutations = 30
n_random_directions = 2
[features]
n_features = 64
k = 4
training_tokens = 2048
context_size = 32
n_permutations = 30
"""

CONTRACT = (
    "study.toml",
    "provenance.json",
    "train/log.jsonl",
    "train/sites.jsonl",
    "train/watched.jsonl",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "behaviour/completions.jsonl",
    "behaviour/scores.jsonl",
    "probes/scores.jsonl",
    "probes/directions.safetensors",
    "features/quality.jsonl",
    "features/shifts.jsonl",
    "report.html",
    "README.md",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_folder(folder / "model")
    return folder


def study(home: Path, steps: int = 2, pgd_steps: int = 2, organism: bool = True) -> Path:
    path = home / f"study{steps}.toml"
    sizes = {"steps": steps, "pgd_steps": pgd_steps, "organism": str(organism).lower()}
    path.write_text(STUDY.format(model=home / "model", **sizes))
    return path


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    assert main(["run", str(study(home)), "--out", str(home / "run"), "--quiet"]) == 0
    return home / "run"


def test_a_run_holds_every_file_of_the_contract(run: Path) -> None:
    assert [name for name in CONTRACT if not (run / name).is_file()] == []
    for suffix in ("png", "pdf", "csv"):
        assert len(list((run / "figures").glob(f"*.{suffix}"))) >= 7


def test_both_sides_have_scores_with_n_and_interval_for_every_model(run: Path) -> None:
    scores = read_rows(run / "behaviour" / "scores.jsonl", Score)
    for label in ("source", "base", "lpa"):
        rates = [s for s in scores if s.model == label and s.measure == "refusal_rate"]
        assert {(s.attack, s.side, s.n) for s in rates} == {
            (attack, side, 6)
            for attack in ("direct", "prefill")
            for side in ("harmful", "harmless")
        }
    assert {"auroc", "perplexity", "refusal_log_odds", "self_report_error"} <= {
        score.measure for score in scores
    }


def test_completions_to_harmful_prompts_are_redacted_on_disk(run: Path) -> None:
    rows = read_rows(run / "behaviour" / "completions.jsonl", Completion)
    assert rows and all(len(row.text) <= 40 for row in rows if row.harmful)


def test_a_second_call_makes_only_the_report_again(run: Path, home: Path) -> None:
    before = {time.stage: time.seconds for time in read_rows(run / "stages.jsonl", StageTime)}
    assert main(["run", str(study(home)), "--out", str(run), "--quiet"]) == 0
    after = {time.stage: time.seconds for time in read_rows(run / "stages.jsonl", StageTime)}
    assert {name for name in before if before[name] != after[name]} == {"report"}
    assert main(["report", "--out", str(run), "--quiet"]) == 0


def test_the_adapter_names_a_base_that_transformers_loads_and_peft_gives_the_same_logits(
    run: Path,
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from lpa_interp.export import load_adapter
    from lpa_interp.model import load_model

    base = json.loads((run / "adapter" / "adapter_config.json").read_text())
    location = base["base_model_name_or_path"]
    hf_model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(location), run / "adapter"
    )
    model = load_model(location, device="cpu")
    load_adapter(model, run / "adapter")
    tokens = torch.tensor([[1, 7, 30, 12, 99]])
    with torch.no_grad():
        assert torch.allclose(hf_model(tokens).logits, model(tokens), atol=1e-4)


def test_a_folder_of_another_study_is_refused_and_left_alone(
    run: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    assert main(["run", str(study(home)), "--out", str(run), "--seed", "5", "--quiet"]) == 2
    assert "holds the run of another study" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_a_training_stopped_by_ctrl_c_goes_on_to_the_same_adapter(home: Path) -> None:
    # Steps long enough that a signal after the first one always meets a run at work.
    path, out = study(home, steps=4, pgd_steps=40, organism=False), home / "stopped"
    command = ["train", str(path), "--quiet", "--out"]
    assert main([*command, str(home / "unstopped")]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *command, str(out)],
        stderr=subprocess.PIPE,
        # A shell's background job, and so its children, would ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out / "train" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert not (out / "adapter").exists()
    assert main([*command, str(out)]) == 0
    assert_same_training(out, home / "unstopped")


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> Path:
    command = ["train", str(study(home, steps=3, pgd_steps=3, organism=False)), "--quiet", "--out"]
    assert main([*command, str(home / "undisturbed")]) == 0
    return home / "undisturbed"


@pytest.mark.parametrize(
    ("point", "module", "function", "nth", "kept"),
    [
        # 3 PGD iterations and 4 updates a step, and one checkpoint after it.
        ("attack", "lpa_interp.attack", "attack_loss", 3 + 2, 1),
        ("defence", "lpa_interp.trainer", "accumulate_gradients", 4 + 4 + 3, 2),
        ("checkpoint", "safetensors.torch", "save_file", 2, 1),
        # Three files at the start and three after a step: dies between the log and the sites.
        ("log", "experiments.checkpoints", "write_rows", 3 + 3 + 2, 1),
    ],
)
def test_a_training_killed_in_the_middle_of_a_step_goes_on_to_the_same_bits(
    point: str, module: str, function: str, nth: int, kept: int, home: Path, undisturbed: Path
) -> None:
    out = home / f"killed-{point}"
    command = ["train", str(study(home, 3, 3, organism=False)), "--quiet", "--out", str(out)]
    killed = subprocess.run(
        [sys.executable, "-m", "tests.killed", module, function, str(nth), *command],
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "adapter").exists()
    with safe_open(out / "train" / "checkpoint.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == str(kept)
    assert main(command) == 0
    assert_same_training(out, undisturbed)


def assert_same_training(run: Path, expected: Path) -> None:
    """The same bits of the adapter and the same rows, but for their times."""
    weights = Path("adapter") / "adapter_model.safetensors"
    ours, theirs = (load_file(folder / weights) for folder in (run, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("log", "sites", "watched"):
        rows, wanted = (rows_without_times(f / "train" / f"{name}.jsonl") for f in (run, expected))
        assert rows == wanted and rows


def rows_without_times(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]
