"""The refusal organism: a small model that refuses, made by a short supervised run.

Small chat models hardly refuse, so there is nothing for personality training to strengthen.
The organism is the source model after LoRA training on refusals to the shipped ``organism``
requests and on its own answers to their harmless twins, merged and cached as a Hugging Face
folder. It is a model organism: numbers on it say how a method acts on a weakly aligned small
model. Only the ``organism`` split is seen; validation and test requests are not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lpa_interp.benchmarks import load_benchmark
from lpa_interp.chat import Row, chat_rows, completion_row, stack_rows, tokenizer_of
from lpa_interp.config import OrganismConfig
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.export import save_merged
from lpa_interp.generation import generate
from lpa_interp.lora import LoraAdapter, attach_lora
from lpa_interp.losses import label_log_probs
from lpa_interp.model import HookedTransformer, source_of, unembed
from lpa_interp.records import Prompt
from lpa_interp.request_pairs import REFUSALS
from lpa_interp.runs import content_hash, write_json
from lpa_interp.sources import cache_folder, source_hash

TARGETS = ("q", "k", "v", "o", "up", "down")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer to learn, as token rows."""

    prompt: Row
    answer: Row


def make_organism(
    model: HookedTransformer,
    config: OrganismConfig,
    seed: int,
    progress: Progress | None = None,
) -> tuple[Path, bool]:
    """Makes the organism of a model, or finds it in the cache.

    Args:
        model: The source model, from `load_model`; unchanged afterwards.
        config: Length and size of the supervised run.
        seed: Of batches, refusal texts and the adapter's start.
        progress: Told of each batch of answers and each step.

    Returns:
        The Hugging Face folder of the merged model, and whether it was there already.

    Raises:
        InputError: The model was not loaded by `load_model`.
        NumericalError: The loss is not finite.
    """
    folder = organism_folder(model, config, seed)
    if (folder / "config.json").is_file():
        return folder, True
    examples = organism_examples(model, config, seed, progress)
    adapter = attach_lora(model, TARGETS, config.lora_rank, 2.0 * config.lora_rank, seed)
    try:
        losses = supervised_run(model, adapter, examples, config, seed, progress)
        save_merged(model, adapter, folder)
    finally:
        adapter.detach()
    write_json(
        folder / "organism.json",
        {
            "source": _source_label(model),
            "config": config.model_dump(),
            "seed": seed,
            "n_refusals": len(examples) // 2,
            "n_answers": len(examples) // 2,
            "loss_first": losses[0],
            "loss_last": losses[-1],
        },
    )
    return folder, False


def organism_folder(model: HookedTransformer, config: OrganismConfig, seed: int) -> Path:
    """Where the organism of a model lies, by the hash of what makes it."""
    source = source_of(model)
    if source is None:
        raise InputError("model", "was not loaded by load_model", "an organism needs its weights")
    texts = [(prompt.text, prompt.harmful) for prompt in _requests()]
    made_from = {
        "source": source_hash(source),
        "config": config.model_dump(),
        "seed": seed,
        "requests": texts,
        "refusals": REFUSALS,
        "dtype": str(model.cfg.dtype),
    }
    return cache_folder() / "organisms" / f"{source.label.split('/')[-1]}-{content_hash(made_from)}"


def organism_examples(
    model: HookedTransformer,
    config: OrganismConfig,
    seed: int,
    progress: Progress | None = None,
) -> list[Example]:
    """Refusals to the harmful requests, the model's own answers to the harmless ones."""
    requests = _requests()
    rows = chat_rows(model, [request.text for request in requests])
    harmless = [row for row, request in zip(rows, requests, strict=True) if not request.harmful]
    tick = None if progress is None else (lambda done, n: progress("own answers", done, n))
    answers = generate(model, harmless, config.answer_tokens, progress=tick)
    rng = random.Random(seed)
    refusals = [
        Example(row, completion_row(model, rng.choice(REFUSALS)))
        for row, request in zip(rows, requests, strict=True)
        if request.harmful
    ]
    # An answer that filled its length was cut, so it must not teach the model to stop there.
    own = []
    for row, text in zip(harmless, answers, strict=True):
        answer = completion_row(model, text, end=False)
        own.append(
            Example(
                row, answer if len(answer) >= config.answer_tokens else completion_row(model, text)
            )
        )
    return refusals + own


def supervised_run(
    model: HookedTransformer,
    adapter: LoraAdapter,
    examples: Sequence[Example],
    config: OrganismConfig,
    seed: int,
    progress: Progress | None = None,
) -> list[float]:
    """Trains the adapter on the examples' answers; returns the loss of each step.

    AdamW, linear warm-up over the first tenth of the steps, constant after it; gradients are
    clipped at norm 1. Examples are drawn in shuffled passes.
    """
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=config.learning_rate, weight_decay=0.0)
    warm_up = max(1, config.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / warm_up))
    rng = random.Random(seed)
    queue: list[Example] = []
    losses = []
    for step in range(config.steps):
        while len(queue) < config.batch_size:
            queue += rng.sample(list(examples), len(examples))
        batch, queue = queue[: config.batch_size], queue[config.batch_size :]
        with adapter.shared():
            loss = answer_loss(model, batch)
            loss.backward()
        if not torch.isfinite(loss):
            raise NumericalError(f"organism: the loss is not finite at step {step + 1}")
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if progress is not None:
            progress("organism", step + 1, config.steps)
    return losses


def answer_loss(model: HookedTransformer, batch: Sequence[Example]) -> Tensor:
    """Mean cross entropy over the answers' tokens, nats."""
    pad, device = tokenizer_of(model).pad_token_id, model.cfg.device
    tokens, mask = stack_rows([e.prompt + e.answer for e in batch], pad, device)
    width = max(len(example.answer) for example in batch)
    lengths = torch.tensor([len(example.answer) for example in batch], device=tokens.device)
    wanted = torch.arange(width, device=tokens.device) >= width - lengths[:, None]
    resid = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
    # Only the positions that predict an answer token are unembedded.
    logits = unembed(model, resid[:, -width - 1 : -1][wanted][None])
    return -label_log_probs(logits, tokens[:, -width:][wanted][None]).mean()


def _requests() -> list[Prompt]:
    return load_benchmark("requests", split="organism")


def _source_label(model: HookedTransformer) -> str:
    source = source_of(model)
    return source.label if source is not None else "unknown"
