"""``make bench``: the trainer against the plain published recipe, in turn, at equal losses.

Prints one JSON line per quantity with the median, minimum and maximum over repeats.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.reference import ReferenceTrainer
from lpa_interp.attack import radii
from lpa_interp.config import TrainConfig
from lpa_interp.export import save_adapter
from lpa_interp.model import load_model, source_of
from lpa_interp.train import Trainer
from lpa_interp.traits import load_traits

REPEATS = 3


def main() -> None:
    """Measures attack iteration and full step on the embedded default model."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    model = load_model()
    source = source_of(model)
    assert source is not None
    # The self-normalised KL follows rounding errors, so losses would part ways (see LOG.md).
    config = TrainConfig(preset="published-llama3", steps=REPEATS, batch_size=8, normalise_kl=False)
    trainer = Trainer(model, load_traits(), config, 0, None)
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, trainer.adapter, Path(folder) / "adapter")
        reference = ReferenceTrainer(
            source.location, Path(folder) / "adapter", trainer.sites, config
        )
    ours, theirs = [], []
    for _ in range(REPEATS):
        batch = trainer.batch("negative")
        retain = trainer.batch("positive").desired_only()
        epsilons = radii(model, batch, trainer.sites, config)
        theirs.append(reference.advance(batch, retain, epsilons))
        row = trainer.advance()
        ours.append({name: getattr(row, name) for name in theirs[-1]})
    show(
        "losses, largest relative difference",
        [distance(a, b) for a, b in zip(ours, theirs, strict=True)],
    )
    for part, per in (("attack_seconds", config.pgd_steps), ("defence_seconds", 1)):
        show(f"{part} ours", [row[part] / per for row in ours])
        show(f"{part} reference", [row[part] / per for row in theirs])
    steps = [
        [row["attack_seconds"] + row["defence_seconds"] for row in rows] for rows in (ours, theirs)
    ]
    show("full step ours, seconds", steps[0])
    show("full step reference, seconds", steps[1])
    show("full step, reference / ours", [b / a for a, b in zip(*steps, strict=True)])
    show("matrix products, GFLOP/s float32", [matrix_rate() for _ in range(REPEATS)])


def distance(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Largest relative difference of the four losses."""
    names = ("attack_toward", "attack_away", "defence_toward", "defence_away")
    return max(abs(ours[n] - theirs[n]) / max(abs(theirs[n]), 1e-6) for n in names)


def matrix_rate(n: int = 1536, seconds: float = 1.0) -> float:
    """This machine's float32 matrix-product rate, GFLOP/s."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        _ = a @ b
        done += 1
    return done * 2 * n**3 / (time.perf_counter() - start) / 1e9


def show(name: str, values: Sequence[float]) -> None:
    """One JSON line."""
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    print(
        json.dumps(
            {"quantity": name, "n": len(values)} | {k: round(v, 6) for k, v in spread.items()}
        )
    )


if __name__ == "__main__":
    main()
