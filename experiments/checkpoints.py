"""Training that survives interruption: log and checkpoint after each step.

The log is written before the checkpoint, so on resume its rows beyond the checkpoint's step
are dropped and made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.provenance import data_hashes
from experiments.workbench import Workbench
from lpa_interp.errors import InputError
from lpa_interp.records import TrainingStep
from lpa_interp.runs import atomic_path, content_hash, read_rows, write_rows

if TYPE_CHECKING:
    from lpa_interp.lora import LoraAdapter
    from lpa_interp.train import TrainerState


def train_with_checkpoints(bench: Workbench) -> LoraAdapter:
    """Trains the study's adapter on the base model, going on from a checkpoint if there is one."""
    from lpa_interp.train import train_lpa

    folder, config = bench.run / "train", bench.study.train
    log, checkpoint = folder / "log.jsonl", folder / "checkpoint.safetensors"
    made_from = content_hash([bench.study.model_dump(mode="json"), data_hashes(bench)])
    resume = read_checkpoint(checkpoint, made_from)
    rows = read_rows(log, TrainingStep)[: resume.step if resume else 0]
    if resume is not None:
        bench.tell.say(f"  going on after step {resume.step} of {config.steps}")

    def keep(row: TrainingStep, state: TrainerState) -> None:
        rows.append(row)
        write_rows(log, rows)
        if row.step % config.checkpoint_every == 0 or row.step == config.steps:
            write_checkpoint(checkpoint, state, made_from)
        bench.tell("training steps", row.step, config.steps)

    write_rows(log, rows)
    adapter, _ = train_lpa(
        bench.base,
        bench.statements,
        config,
        bench.study.seed,
        bench.study.traits.system_prompt,
        resume,
        keep,
    )
    return adapter


def write_checkpoint(path: Path, state: TrainerState, made_from: str) -> None:
    """Writes the trainer's tensors as safetensors; step and hash of the inputs in the header."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}
        save_file(tensors, temporary, metadata={"step": str(state.step), "made_from": made_from})


def read_checkpoint(path: Path, made_from: str) -> TrainerState | None:
    """Reads a checkpoint; None where there is none, or one that other inputs made.

    Raises:
        InputError: The file is not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    from lpa_interp.train import TrainerState

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            if header["made_from"] != made_from:
                return None
            names = list(file.keys())
            return TrainerState(int(header["step"]), {n: file.get_tensor(n) for n in names})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            path, f"is not a checkpoint: {error}", "remove it to start again"
        ) from error
