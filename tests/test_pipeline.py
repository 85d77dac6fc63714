from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
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
steps = 2
answer_tokens = 4
lora_rank = 4
[train]
steps = {steps}
batch_size = 2
pgd_steps = {pgd_steps}
lora_rank = 4
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


def study(home: Path, steps: int = 2, pgd_steps: int = 2) -> Path:
    path = home / f"study{steps}.toml"
    path.write_text(STUDY.format(model=home / "model", steps=steps, pgd_steps=pgd_steps))
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


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_training_stopped_at_any_point_goes_on_to_the_same_adapter(
    kind: signal.Signals, home: Path
) -> None:
    out, whole = home / f"stopped-{kind.name}", home / "whole"
    # Steps long enough that a signal after the first one always meets a run at work.
    command = ["train", str(study(home, steps=6, pgd_steps=60)), "--quiet", "--out"]
    if not whole.exists():
        assert main([*command, str(whole)]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *command, str(out)],
        stderr=subprocess.PIPE,
        # A shell's background job, and so its children, would ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out / "train" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(kind)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if kind == signal.SIGINT else -signal.SIGKILL)
    assert b"Traceback" not in errors
    assert not (out / "adapter").exists()
    assert main([*command, str(out)]) == 0
    resumed, expected = (
        load_file(f / "adapter" / "adapter_model.safetensors") for f in (out, whole)
    )
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
