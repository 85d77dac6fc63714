"""Training that survives interruption: log and checkpoint after each step.

The log is written before the checkpoint, so on resume its rows beyond the checkpoint's step
are dropped and made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.provenance import data_hashes
from experiments.workbench import Workbench
from lpa_interp.errors import InputError
from lpa_interp.records import AttackSite, TrainingStep, WatchedCompletion
from lpa_interp.runs import atomic_path, content_hash, read_rows, write_rows

if TYPE_CHECKING:
    from lpa_interp.attack import Bases
    from lpa_interp.lora import LoraAdapter
    from lpa_interp.train import TrainerState, TrainingLog

_LOGS: dict[str, tuple[str, type[Any]]] = {
    "steps": ("log.jsonl", TrainingStep),
    "sites": ("sites.jsonl", AttackSite),
    "watched": ("watched.jsonl", WatchedCompletion),
}


def train_with_checkpoints(bench: Workbench) -> LoraAdapter:
    """Trains the study's adapter on the base model, going on from a checkpoint if there is one."""
    from lpa_interp.train import train_lpa
    from lpa_interp.watch import harm_rate

    folder, config = bench.run / "train", bench.study.train
    checkpoint = folder / "checkpoint.safetensors"
    made_from = content_hash([bench.study.model_dump(mode="json"), data_hashes(bench)])
    resume = read_checkpoint(checkpoint, made_from)
    log = read_log(folder, resume.step if resume else 0)
    if resume is not None:
        bench.tell.say(f"  going on after step {resume.step} of {config.steps}")

    def keep(rows: TrainingLog, state: TrainerState) -> None:
        log.extend(rows)
        write_log(folder, log)
        if state.step % config.checkpoint_every == 0 or state.step == config.steps:
            write_checkpoint(checkpoint, state, made_from)
        bench.tell("training steps", state.step, config.steps)

    write_log(folder, log)
    adapter, _ = train_lpa(
        bench.base,
        bench.statements,
        config,
        bench.study.seed,
        bench.study.traits.system_prompt,
        resume,
        keep,
        attack_bases(bench),
    )
    kinds = {row.attacked for row in log.watched}
    rates = [harm_rate([row for row in log.watched if row.attacked == kind]) for kind in kinds]
    write_rows(folder / "harm_rates.jsonl", sorted(rates, key=lambda rate: rate.attacked))
    return adapter


def attack_bases(bench: Workbench) -> Bases | None:
    """The subspace of each attacked site, from the directions that the study names.

    A site takes the directions of the next residual stream that it writes into: those of the
    layer after it, or of the nearest layer where there are none.

    Raises:
        InputError: The file holds no direction of those names.
    """
    import torch

    from lpa_interp.constraints import orthonormal
    from lpa_interp.hooks import layer_of, resolve_hooks
    from probes import load_directions

    config = bench.study.train
    if config.subspace is None:
        return None
    found = load_directions(config.subspace)
    names = config.subspace_names or tuple({d.name for d in found})
    there = {d.name for d in found}
    missing = set(names) - there
    if missing or not found:
        allowed = f"there: {', '.join(sorted(there))}"
        place = f"train.subspace_names: {sorted(missing)}"
        raise InputError(place, f"not in {config.subspace}", allowed)
    chosen, d_model = [d for d in found if d.name in names], bench.base.cfg.d_model
    if any(len(d.vector) != d_model for d in chosen):
        raise InputError("train.subspace", f"is not of this model, whose d_model is {d_model}")
    bases = {}
    for site in resolve_hooks(bench.base, config.sites):
        nearest = min({d.layer for d in chosen}, key=lambda at: abs(at - layer_of(site) - 1))
        vectors = [torch.from_numpy(d.vector) for d in chosen if d.layer == nearest]
        bases[site] = orthonormal(torch.stack(vectors)).to(bench.base.cfg.device)
    return bases


def read_log(folder: Path, n_steps: int) -> TrainingLog:
    """The rows of the first ``n_steps`` steps of an earlier call."""
    from lpa_interp.train import TrainingLog

    log = TrainingLog()
    for name, (file, record) in _LOGS.items():
        rows = [row for row in read_rows(folder / file, record) if row.step <= n_steps]
        getattr(log, name).extend(rows)
    return log


def write_log(folder: Path, log: TrainingLog) -> None:
    """Writes all rows of a run so far."""
    for name, (file, _) in _LOGS.items():
        write_rows(folder / file, getattr(log, name))


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
