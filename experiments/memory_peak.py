"""Peak memory of one training step, each trainer in a process of its own (Linux, or CUDA)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from lpa_interp.config import TrainConfig

WHO = ("reference", "float32", "bfloat16 products")
# The peak is that of one attack iteration or one update: more of them change nothing.
CONFIG = TrainConfig(
    preset="published-llama3",
    steps=1,
    batch_size=8,
    normalise_kl=False,
    watch_every=0,
    pgd_steps=2,
    updates_per_step=1,
)


def main(who: str, adapter: Path, name: str) -> None:
    """Prints the peak of memory during a step, MiB: the GPU's where there is one."""
    from lpa_interp.model import load_hugging_face, load_model, source_of
    from lpa_interp.trainer import Trainer
    from lpa_interp.traits import load_traits

    model = load_model(name)
    products = "bfloat16" if who.startswith("bfloat16") else "model"
    config = CONFIG.model_copy(update={"products": products})
    trainer = Trainer(model, load_traits(), config, 0, None)
    if who != "reference":
        forget_peak()
        trainer.advance()
        print(peak_mib())
        return
    from experiments.reference import ReferenceTrainer

    source = source_of(model)
    assert source is not None
    batch, retain = trainer.batch("negative"), trainer.batch("positive").desired_only()
    sites, radii = trainer.sites, dict.fromkeys(trainer.sites, CONFIG.epsilon)
    device = model.cfg.device
    del model, trainer  # the batches came from it; the reference holds its own
    base: Any = load_hugging_face(source.location, "float32")
    base.to(device)
    reference = ReferenceTrainer(base, adapter, sites, CONFIG)
    forget_peak()
    reference.advance(batch, retain, radii)
    print(peak_mib())


def forget_peak() -> None:
    """Starts the kernel's record of the peak afresh, without what loading took."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Peak of allocated GPU memory, or of resident memory, since `forget_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
