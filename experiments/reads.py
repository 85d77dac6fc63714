"""The activations that the probe and the refusal stage read, each set of texts once.

Both stages read the same texts at the same places. What was read is kept in memory, and in the
run directory until the refusal stage ends, so that `lpa probe` and `lpa refusal` in two calls, or
a run that was interrupted, do not read it again. A file is found by the hash of all that decides
its content, and is written whole or not at all. No text is kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from experiments.workbench import Workbench
from lpa_interp.records import ModelLabel, PromptSide
from lpa_interp.runs import content_hash, file_hash

if TYPE_CHECKING:
    from lpa_interp.chat import Row
    from lpa_interp.model import HookedTransformer
    from probes.activations import Activations

FOLDER = ".reads"
SIDES: tuple[PromptSide, ...] = ("harmful", "harmless")
RESIDUALS = ("blocks.*.hook_resid_pre",)
"""Trait directions are read where refusal directions are: at the input of each block."""


def read_once(
    bench: Workbench,
    label: ModelLabel,
    model: HookedTransformer,
    rows: Sequence[Row],
    what: Sequence[object],
    make: Callable[[], Activations],
) -> Activations:
    """What ``make`` reads, from memory or the run directory where it was read before.

    Args:
        bench: Holds the memory and the run directory.
        label: The model that is read: the adapter is part of the key of the trained one.
        model: The same model, open.
        rows: Token rows of the texts; they hold the text and the chat template.
        what: Everything else that decides the activations: hook names, positions, batch size.
        make: Reads the model.
    """
    from probes import cached_activations

    parts = {"rows": content_hash(list(rows)), "what": list(what), **_parts(bench, label, model)}
    key = content_hash(parts)
    if key not in bench.reads:
        bench.reads[key] = cached_activations(bench.run / FOLDER, parts, make)
    return bench.reads[key]


def forget_reads(bench: Workbench) -> None:
    """Removes what was kept, from memory and from the run directory."""
    bench.reads.clear()
    shutil.rmtree(bench.run / FOLDER, ignore_errors=True)


def _parts(bench: Workbench, label: ModelLabel, model: HookedTransformer) -> dict[str, object]:
    """What decides a model's activations: weights, adapter, precision, device and version."""
    import torch

    from lpa_interp import __version__
    from lpa_interp.model import source_of
    from lpa_interp.sources import source_hash

    source = source_of(model)
    files = sorted((bench.run / "adapter").glob("*.*")) if label == "lpa" else []
    return {
        "model": source_hash(source) if source is not None else "unknown",
        "adapter": [file_hash(file) for file in files],
        "dtype": str(model.cfg.dtype),
        "device": str(model.cfg.device),
        "versions": [__version__, torch.__version__],
    }


def statement_activations(bench: Workbench, label: ModelLabel) -> Activations:
    """Activations of every statement at the input of each block, at the study's position."""
    from probes import statement_rows

    with bench.model(label) as model:
        rows = statement_rows(model, bench.trait_statements, bench.study.traits.system_prompt)
        return _residuals(bench, label, model, rows, (statement_position(bench, model),))


def statement_position(bench: Workbench, model: HookedTransformer) -> int:
    """Where the study reads statements, counted from the end of the prompt."""
    from lpa_interp.chat import post_instruction_row

    at_end = bench.study.probes.statement_position == "instruction_end"
    return -len(post_instruction_row(model)) if at_end else -1


def request_activations(
    bench: Workbench,
    label: ModelLabel,
    split: str,
    positions: Iterable[int] = (-1,),
    limit: int | None = None,
) -> dict[PromptSide, Activations]:
    """The requests of a split by side; positions count from the end of the prompt.

    Without a limit, as many prompts per side as ablations are measured on.
    """
    limit = bench.study.probes.ablation_prompts if limit is None else limit
    places = tuple(sorted(set(positions)))
    with bench.model(label) as model:
        rows = request_rows(bench, model, split, limit)
        return {side: _residuals(bench, label, model, rows[side], places) for side in SIDES}


def measured_activations(bench: Workbench, label: ModelLabel) -> dict[PromptSide, Activations]:
    """The test requests, where statements are read and at the last prompt token."""
    with bench.model(label) as model:
        position = statement_position(bench, model)
    return request_activations(bench, label, "test", (position, -1))


def neutral_activations(bench: Workbench, label: ModelLabel) -> tuple[Activations, str]:
    """Neutral prompts at the last prompt token, and the name of the set they are from."""
    from lpa_interp.chat import chat_rows
    from probes.neutral import neutral_prompts

    found = neutral_prompts(bench.study.probes.ablation_prompts, bench.study.seed)
    if found.reason and label == "base":
        bench.tell.say(f"  neutral prompts: {found.source} ({found.reason})")
    with bench.model(label) as model:
        rows = chat_rows(model, found.texts)
        return _residuals(bench, label, model, rows, (-1,)), found.source


def request_rows(
    bench: Workbench, model: HookedTransformer, split: str, limit: int | None
) -> dict[PromptSide, list[Row]]:
    """Token rows of the shipped requests of a split, by side."""
    from lpa_interp.chat import chat_rows

    requests = bench.requests(split, limit)
    return {side: chat_rows(model, [p.text for p in requests[side]]) for side in SIDES}


def _residuals(
    bench: Workbench,
    label: ModelLabel,
    model: HookedTransformer,
    rows: Sequence[Row],
    positions: tuple[int, ...],
) -> Activations:
    from lpa_interp.hooks import resolve_hooks
    from probes import collect

    # Block 0's input at a template token is the same for every prompt.
    names, size = resolve_hooks(model, RESIDUALS)[1:], bench.study.probes.batch_size
    what = ("prompt", *names, *positions, size)
    make = partial(collect, model, rows, names, positions, size)
    return read_once(bench, label, model, rows, what, make)
