"""The utility tasks against the LM Evaluation Harness: one JSON line per task.

Run as ``python -m experiments.lm_eval_check [--limit N] [--model NAME] [TASK ...]``. Needs
``pip install lm-eval==0.4.13``, which the toolkit itself does not. The model is exported to a
Hugging Face folder, and the harness runs it with its own task files: prompts, requests, tokens
and metrics are the harness's, only the rows come from the files that the toolkit reads. Exits
with 1 where a log-likelihood differs by more than 1e-3 nats or an accuracy at all.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.lm_eval_rows import harness_settings, harness_task
from lpa_interp.errors import InputError
from lpa_interp.export import save_merged
from lpa_interp.model import HookedTransformer, load_model
from lpa_interp.sources import DEFAULT_MODEL
from lpa_interp.utility import Item, Task, find_task, likelihoods, load_task
from lpa_interp.utility.accuracy import judged
from lpa_interp.utility.likelihood import Likelihood
from lpa_interp.utility.task import HARNESS_METRICS, TARGET_LOSS_JUDGE

LARGEST_DIFFERENCE = 1e-3
"""Nats, between the log-likelihoods of one continuation."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares each task in turn; 0 where all agree."""
    parser = argparse.ArgumentParser(prog="lm_eval_check", description=__doc__)
    parser.add_argument("tasks", nargs="*", default=["arc_easy", "piqa", "lambada_openai"])
    parser.add_argument("--limit", type=int, default=20, help="items of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the sample of items")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    chosen = parser.parse_args(arguments)
    try:
        require_harness()
        tasks = [
            (find_task(name), load_task(name, chosen.limit, chosen.seed)) for name in chosen.tasks
        ]
        model = load_model(chosen.model, device="cpu")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "model"
        save_merged(model, None, exported)
        harness = harness_model(exported)
        rows = [compare(model, harness, task, items) for task, items in tasks]
    return 0 if all(row["equal"] for row in rows) else 1


def require_harness() -> None:
    """Checks that the harness is installed.

    Raises:
        InputError: It is not.
    """
    try:
        importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        hint = "pip install lm-eval==0.4.13, into an environment of its own"
        raise InputError("lm-eval", "is not installed", hint) from None


def harness_model(exported: Path) -> Any:
    """The harness's own model on the CPU, in float32."""
    from lm_eval.models.huggingface import HFLM

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=8)


def compare(
    model: HookedTransformer, harness: Any, task: Task, items: Sequence[Item]
) -> dict[str, Any]:
    """Scores the items here and in the harness, prints the comparison and returns it."""
    start = time.perf_counter()
    ours = likelihoods(model, items)
    middle = time.perf_counter()
    theirs, means = harness_results(harness, task, items)
    seconds = (middle - start, time.perf_counter() - middle)
    row: dict[str, Any] = {"task": task.name, "n": len(items), "n_continuations": 0}
    row |= {"lm_eval": importlib.metadata.version("lm-eval"), "equal": True}
    row["largest_difference_nats"] = 0.0
    for one, other in zip(ours, theirs, strict=True):
        row["n_continuations"] += len(one)
        apart = max(abs(a.log_prob - b) for a, (b, _) in zip(one, other, strict=True))
        row["largest_difference_nats"] = max(row["largest_difference_nats"], apart)
        row["equal"] &= [a.is_greedy for a in one] == [greedy for _, greedy in other]
    row["equal"] &= row["largest_difference_nats"] <= LARGEST_DIFFERENCE
    for judge in task.judges:
        metric, mean = HARNESS_METRICS[judge], _mean(judge, items, ours)
        row[metric], row[f"lm_eval_{metric}"] = mean, means[metric]
        close = LARGEST_DIFFERENCE * mean if judge == TARGET_LOSS_JUDGE else 1e-9
        row["equal"] &= abs(mean - means[metric]) <= close
    row |= {"seconds": round(seconds[0], 2), "lm_eval_seconds": round(seconds[1], 2)}
    print(json.dumps(row), flush=True)
    return row


def harness_results(
    harness: Any, task: Task, items: Sequence[Item]
) -> tuple[list[list[tuple[float, bool]]], dict[str, float]]:
    """Log-likelihood and greediness of each continuation by the harness, and its metrics.

    Metrics of several of the harness's tasks (MMLU's subjects) are weighed by their items, and
    perplexities are not among them.
    """
    from lm_eval import evaluator
    from lm_eval.api.task import ConfigurableTask

    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(harness_task(task, item), []).append(index)
    found: list[list[tuple[float, bool]]] = [[] for _ in items]
    sums: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, places in groups.items():
            here = [items[place] for place in places]
            built = ConfigurableTask(config=harness_settings(task, name, here, Path(folder)))
            results: Any = evaluator.evaluate(harness, {name: built}, bootstrap_iters=0)
            samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
            for place, sample in zip(places, samples, strict=True):
                found[place] = [(float(a), bool(b)) for ((a, b),) in sample["resps"]]
            for metric in {HARNESS_METRICS[judge] for judge in task.judges}:
                value = float(results["results"][name][f"{metric},none"])
                sums[metric] = sums.get(metric, 0.0) + value * len(here)
    return found, {metric: total / len(items) for metric, total in sums.items()}


def _mean(judge: str, items: Sequence[Item], found: Sequence[tuple[Likelihood, ...]]) -> float:
    values = [judged(judge, item, scored) for item, scored in zip(items, found, strict=True)]
    mean = math.fsum(values) / len(values)
    return math.exp(mean) if judge == TARGET_LOSS_JUDGE else mean


if __name__ == "__main__":
    sys.exit(main())
