"""``python -m experiments.bench_large``: an 8B-shaped random Llama trained on one GPU.

Speed and memory do not depend on what the weights say, so nothing is downloaded: the weights
are random, in bfloat16, and the tokenizer is the default model's. Prints JSON lines as
`experiments.bench` does, for our trainer and then for the plain reference.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from experiments.bench import CONFIG, LOSSES, distance, ratios, seconds, show
from experiments.reference import ReferenceTrainer
from lpa_interp.batches import TraitBatch
from lpa_interp.export import save_adapter
from lpa_interp.model import hook_model
from lpa_interp.sources import DEFAULT_MODEL, find_source
from lpa_interp.trainer import Trainer
from lpa_interp.traits import load_traits

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
STEPS = 3
Row = dict[str, float]


def main(device: str, tokenizer: str) -> None:
    """Our trainer, then the reference on the same batches."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        rows, batches, sites = train_ours(device, tokenizer, adapter)
        show("8B full step, s", [seconds(row) for row in rows])
        per = [row["attack_seconds"] / (CONFIG.pgd_steps + 0.5) for row in rows]
        show("8B attack iteration, s", per)
        show("8B peak memory, GiB", [gib(device)])
        plain = train_reference(device, adapter, batches, sites)
    show("8B reference full step, s", [seconds(row) for row in plain])
    show("8B reference peak memory, GiB", [gib(device)])
    show(
        "8B full step, reference / ours", ratios(*([seconds(r) for r in x] for x in (plain, rows)))
    )
    apart = [distance(a, b) for a, b in zip(rows, plain, strict=True)]
    show("8B losses, largest relative difference", apart)


def train_ours(
    device: str, tokenizer: str, adapter: Path
) -> tuple[list[Row], list[tuple[TraitBatch, TraitBatch]], list[str]]:
    """Rows of the steps, the batches they used, and the sites."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    model = hook_model(random_llama(device), words, device, "bfloat16")
    model.eval().requires_grad_(False)
    forget(device)
    trainer = Trainer(model, load_traits(), CONFIG, 0, None)
    save_adapter(model, trainer.adapter, adapter)
    rows, batches = [], []
    for _ in range(STEPS):
        batches.append((trainer.batch("negative"), trainer.batch("positive").desired_only()))
        row = trainer.advance().steps[0]
        names = (*LOSSES, "attack_seconds", "defence_seconds")
        rows.append({name: float(getattr(row, name)) for name in names})
    return rows, batches, trainer.sites


def train_reference(
    device: str, adapter: Path, batches: list[tuple[TraitBatch, TraitBatch]], sites: list[str]
) -> list[Row]:
    """Rows of the same steps by the plain recipe."""
    base = random_llama(device)
    forget(device)
    reference = ReferenceTrainer(base, adapter, sites, CONFIG)
    radii = dict.fromkeys(sites, CONFIG.epsilon)
    return [reference.advance(attacked, kept, radii) for attacked, kept in batches]


def random_llama(device: str) -> Any:
    """The same random weights at each call."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **LLAMA_8B)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def forget(device: str) -> None:
    """Starts the record of the peak afresh."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gib(device: str) -> float:
    """Peak of allocated GPU memory."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")


if __name__ == "__main__":
    main("cuda", sys.argv[1] if len(sys.argv) > 1 else find_source(DEFAULT_MODEL).location)
