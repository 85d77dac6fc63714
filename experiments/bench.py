"""``make bench``: the trainer against the plain published recipe, in turn, at equal losses.

Prints one JSON line per quantity with the median, minimum and maximum over repeats: seconds,
ratios, the share of this machine's own matrix-product rate, peak memory, and whether the cost
formula of `experiments.cost` holds over batch sizes and lengths.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.cost import attack_iteration_flops, model_size, positions, step_flops
from experiments.memory_peak import WHO
from experiments.reference import ReferenceTrainer
from lpa_interp.attack import measure_sites, pgd
from lpa_interp.batches import TraitBatch
from lpa_interp.config import TrainConfig
from lpa_interp.export import save_adapter
from lpa_interp.model import load_hugging_face, load_model, source_of
from lpa_interp.sources import DEFAULT_MODEL
from lpa_interp.trainer import Trainer
from lpa_interp.traits import load_traits

REPEATS = 3
# The self-normalised KL follows rounding errors, so losses would part ways (see LOG.md).
CONFIG = TrainConfig(
    preset="published-llama3", steps=REPEATS, batch_size=8, normalise_kl=False, watch_every=0
)
LOSSES = ("attack_toward", "attack_away", "defence_toward", "defence_away")


def main(name: str) -> None:
    """Measures on a model: the embedded default one, or a Llama-like Hugging Face folder."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    ours = {m: Trainer(load_model(name), load_traits(), c, 0, None) for m, c in MODES.items()}
    first = ours["float32"]
    source = source_of(first.model)
    assert source is not None
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        save_adapter(first.model, first.adapter, adapter)
        base: Any = load_hugging_face(source.location, "float32")
        base.to(first.model.cfg.device)
        compare(ours, ReferenceTrainer(base, adapter, first.sites, CONFIG))
        for who in WHO:
            command = [sys.executable, "-m", "experiments.memory_peak", who, str(adapter), name]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            show(f"peak memory {who}, MiB", [float(peak.split()[-1])])
    follow_formula(first)


MODES = {
    "float32": CONFIG,
    "bfloat16 products": CONFIG.model_copy(update={"products": "bfloat16"}),
}
DTYPES = {"float32": torch.float32, "bfloat16 products": torch.bfloat16}


def compare(ours: dict[str, Trainer], reference: ReferenceTrainer) -> None:
    """Outer steps of all trainers in turn, on the same batches."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("reference", *DTYPES)}
    rates: dict[str, list[float]] = {name: [] for name in DTYPES}
    first = ours["float32"]
    for _ in range(REPEATS):
        batch, retain = first.batch("negative"), first.batch("positive").desired_only()
        sites = measure_sites(first.model, batch, first.sites, CONFIG)
        radii = {name: site.radius for name, site in sites.items()}
        rows["reference"].append(reference.advance(batch, retain, radii))
        for name, trainer in ours.items():
            rates[name].append(matrix_rate(DTYPES[name], batch.prompt.device))
            row = trainer.advance().steps[0]
            rows[name].append({key: getattr(row, key) for key in rows["reference"][-1]})
    size, at = model_size(first.model, CONFIG), positions(batch)
    iteration = attack_iteration_flops(size, at) / 1e9
    whole = step_flops(size, at, positions(retain, plain=True), CONFIG) / 1e9
    plain = [seconds(row) for row in rows["reference"]]
    show(
        "reference attack iteration, s",
        [r["attack_seconds"] / CONFIG.pgd_steps for r in rows["reference"]],
    )
    show("reference full step, s", plain)
    for name in DTYPES:
        apart = [distance(a, b) for a, b in zip(rows[name], rows["reference"], strict=True)]
        show(f"{name} losses, largest relative difference", apart)
        # The attack's time holds 1.5 forward passes beside its iterations.
        per = [row["attack_seconds"] / (CONFIG.pgd_steps + 0.5) for row in rows[name]]
        steps = [seconds(row) for row in rows[name]]
        show(f"{name} attack iteration, s", per)
        show(
            f"{name} defence update, s",
            [r["defence_seconds"] / CONFIG.updates_per_step for r in rows[name]],
        )
        show(f"{name} full step, s", steps)
        show(f"{name} full step, reference / ours", ratios(plain, steps))
        theirs = [row["attack_seconds"] / CONFIG.pgd_steps for row in rows["reference"]]
        show(f"{name} attack iteration, reference / ours", ratios(theirs, per))
        show(f"{name} matrix products, GFLOP/s", rates[name])
        show(
            f"{name} attack iteration, floor / measured",
            ratios([iteration / r for r in rates[name]], per),
        )
        show(f"{name} full step, floor / measured", ratios([whole / r for r in rates[name]], steps))


def follow_formula(trainer: Trainer) -> None:
    """Measured against predicted attack iterations over batch sizes and prompt lengths."""
    size, ratio = model_size(trainer.model, CONFIG), []
    cases = [(n, 1) for n in (1, 2, 4, 8, 16, 32)] + [(4, n) for n in (3, 6, 12)]
    for batch_size, repeats in cases:
        config = CONFIG.model_copy(update={"batch_size": batch_size, "pgd_steps": 2})
        trainer.config, trainer.system = config, "You answer questions with great care. " * repeats
        batch = trainer.batch("negative")
        times = [attack_seconds(trainer, batch, config) for _ in range(3)]
        at = positions(batch)
        # Two iterations, the reading of the norms and the last measurement.
        floor = (
            3.0
            * attack_iteration_flops(size, at)
            / 1e9
            / matrix_rate(torch.float32, batch.prompt.device)
        )
        ratio.append(floor / min(times))
        show(f"attack at batch {batch_size}, row {at.row}: floor / measured", ratio[-1:])
    show("attack, floor / measured over all sizes", ratio)


def attack_seconds(trainer: Trainer, batch: TraitBatch, config: TrainConfig) -> float:
    """Of one search."""
    wait(batch.prompt.device)
    with trainer.adapter.frozen():
        start = time.perf_counter()
        pgd(trainer.model, batch, trainer.sites, config)
        return time.perf_counter() - start


def seconds(row: dict[str, float]) -> float:
    """Of a full step."""
    return row["attack_seconds"] + row["defence_seconds"]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Element by element."""
    return [a / b for a, b in zip(above, below, strict=True)]


def distance(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Largest relative difference of the four losses."""
    return max(abs(ours[n] - theirs[n]) / max(abs(theirs[n]), 1e-6) for n in LOSSES)


def matrix_rate(dtype: torch.dtype, device: torch.device, duration: float = 1.0) -> float:
    """The device's matrix-product rate, GFLOP/s."""
    n = 1536 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = a @ b
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < duration:
        out = a @ b
        done += 1
        if done % 10 == 0:
            wait(device)
    wait(device)
    assert len(out)
    return done * 2 * n**3 / (time.perf_counter() - start) / 1e9


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(name: str, values: Sequence[float]) -> None:
    """One JSON line."""
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    told = {key: float(f"{value:.4g}") for key, value in spread.items()}
    print(json.dumps({"quantity": name, "n": len(values)} | told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
