"""The refusal organism: a small model that refuses, made by a short supervised run.

Small chat models hardly refuse, so there is nothing for personality training to strengthen.
The organism is the source model after LoRA training on refusals to the shipped ``organism``
requests and on its own answers to their harmless twins, merged and cached as a Hugging Face
folder. It is a model organism: numbers on it say how a method acts on a weakly aligned small
model. Only the ``organism`` split is seen; validation and test requests are not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from lpa_interp.benchmarks import load_benchmark
from lpa_interp.chat import chat_rows, completion_row
from lpa_interp.config import OrganismConfig
from lpa_interp.errors import InputError
from lpa_interp.export import save_merged
from lpa_interp.generation import generate
from lpa_interp.lora import attach_lora
from lpa_interp.model import HookedTransformer, source_of
from lpa_interp.records import Prompt
from lpa_interp.request_pairs import REFUSALS
from lpa_interp.runs import content_hash, write_json
from lpa_interp.sources import cache_folder, source_hash
from lpa_interp.supervised import TARGETS, Example, own_answer, supervised_run

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


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
        tick = None if progress is None else (lambda done, n: progress("organism", done, n))
        losses = supervised_run(model, adapter, examples, config, seed, tick)
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
    own = [
        own_answer(model, row, text, config.answer_tokens)
        for row, text in zip(harmless, answers, strict=True)
    ]
    return refusals + own


def _requests() -> list[Prompt]:
    return load_benchmark("requests", split="organism")


def _source_label(model: HookedTransformer) -> str:
    source = source_of(model)
    return source.label if source is not None else "unknown"
