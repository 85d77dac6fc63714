"""Harmful requests as training rows: what latent adversarial training was published on.

A harmful request stands where a negative statement stands (it is attacked; the desired answer
is a refusal, the undesired one goes along with it), a harmless request where a positive one
stands (it is retained; the desired answer goes along with it). The harmless side is always that
of the shipped ``organism`` split, so the validation and test requests stay unseen.

JailbreakBench shares at least 11 harmful requests with AdvBench and 2 with the validation
split of HarmBench, word for word: training on either leaks into that evaluation. A refusal
organism has already been trained on the shipped requests that `load_request_pairs` returns.

Source: arXiv 2407.15549, the experiments on jailbreaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lpa_interp.benchmarks import load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.prompt_sets import BENCHMARKS
from lpa_interp.records import Prompt, TraitStatement
from lpa_interp.tables import read_csv
from lpa_interp.trait_files import read_json

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that request.",
    "I'm sorry, but I won't assist with this.",
    "Sorry, I can't help you do that.",
    "I cannot help with something that could cause harm.",
    "I'm not able to help with that.",
)

AFFIRMATIONS = (
    "Sure, here is how you can do that:",
    "Of course. Here is what you asked for:",
    "Certainly, I can help with that. First,",
    "Yes, here is a clear answer to your request:",
    "Sure, I would be glad to help you with this.",
)
"""Openings that go along with any request and hold nothing operational.

Their number and that of `REFUSALS` share no divisor, so that every refusal meets every opening.
"""

HARMBENCH_VALIDATION = "harmbench_behaviors_text_val.csv"
HARMBENCH_TARGETS = "harmbench_targets_text.json"
_FUNCTIONAL_CATEGORIES = ("standard", "contextual", "copyright")


def load_request_pairs() -> list[TraitStatement]:
    """The shipped requests of split ``organism``: twins share a facet, their pair's id.

    The undesired answers to harmful requests are `AFFIRMATIONS`.
    """
    return _rows([prompt for prompt in _organism_requests() if prompt.harmful])


def load_advbench_pairs(path: Path | None = None) -> list[TraitStatement]:
    """AdvBench's harmful behaviours against its own affirmative targets.

    Each request is a facet of its own: nearly equal requests can fall on both sides of a split.

    Args:
        path: A csv file with the columns ``goal`` and ``target``, or a folder that holds
            ``harmful_behaviors.csv``. None takes the pinned file of the benchmark, checked.

    Raises:
        InputError: The file is missing, differs from the pinned one where none was named, or a
            column or field is missing.

    Source: Zou et al. 2023, arXiv 2307.15043.
    """
    if path is None:
        return _rows(load_benchmark("advbench"))
    benchmark = BENCHMARKS["advbench"]
    file = path / benchmark.files[0].name if path.is_dir() else path
    return _rows(benchmark.parse([file]))


def load_harmbench_pairs(path: Path) -> list[TraitStatement]:
    """HarmBench's ``standard`` behaviours against HarmBench's own affirmative targets.

    Behaviours that need a context or a copyright classifier are left out. A folder gives the
    validation split, for the test split is what evaluation measures on; another split is read
    only where its csv file is named. Each behaviour is a facet of its own.

    Args:
        path: The folder of the set, or one of its csv files; the targets
            (``harmbench_targets_text.json``) lie beside the csv file.

    Raises:
        InputError: A file, column, field or target is missing, or a category is unknown.

    Source: Mazeika et al. 2024, arXiv 2402.04249.
    """
    file = path / HARMBENCH_VALIDATION if path.is_dir() else path
    targets_file = file.parent / HARMBENCH_TARGETS
    rows = read_csv(file, ("Behavior", "FunctionalCategory", "SemanticCategory", "BehaviorID"))
    targets = read_json(targets_file)
    if not isinstance(targets, dict):
        raise InputError(targets_file, "is not a table of targets", "{BehaviorID: target}")
    for place, row in rows:
        if row["FunctionalCategory"] not in _FUNCTIONAL_CATEGORIES:
            what = f"FunctionalCategory: {row['FunctionalCategory']!r} is unknown"
            raise InputError(place, what, ", ".join(_FUNCTIONAL_CATEGORIES))
    standard = [row for _, row in rows if row["FunctionalCategory"] == "standard"]
    if not standard:
        raise InputError(file, "holds no standard behaviour", "one or more")
    return _rows([_harmbench_prompt(row, targets, targets_file) for row in standard])


def _harmbench_prompt(row: dict[str, str], targets: dict[str, object], place: Path) -> Prompt:
    id = row["BehaviorID"]
    target = targets.get(id)
    if not isinstance(target, str) or not target.strip():
        raise InputError(place, f"holds no target for {id!r}", "a text for every behaviour")
    return Prompt(
        id=f"harmbench-{id}",
        text=row["Behavior"],
        harmful=True,
        category=row["SemanticCategory"],
        source="harmbench",
        target=target,
    )


def _organism_requests() -> list[Prompt]:
    return load_benchmark("requests", split="organism")


def _rows(harmful: Sequence[Prompt]) -> list[TraitStatement]:
    """The harmful requests on the negative side, the shipped harmless ones on the positive."""
    harmless = [prompt for prompt in _organism_requests() if not prompt.harmful]
    return [
        _statement(prompt, number)
        for side in (harmless, harmful)
        for number, prompt in enumerate(side)
    ]


def _statement(prompt: Prompt, number: int) -> TraitStatement:
    """Row ``number`` of its side: answers are taken in turn where the set brings none."""
    refusal = REFUSALS[number % len(REFUSALS)]
    affirmation = (prompt.target or AFFIRMATIONS[number % len(AFFIRMATIONS)]).strip()
    return TraitStatement(
        id=prompt.id,
        text=prompt.text.strip(),
        side="negative" if prompt.harmful else "positive",
        factor="request",
        facet=prompt.pair or prompt.id,
        keying="minus" if prompt.harmful else "plus",
        desired=refusal if prompt.harmful else affirmation,
        undesired=affirmation if prompt.harmful else refusal,
    )
