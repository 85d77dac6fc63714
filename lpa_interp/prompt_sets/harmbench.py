"""HarmBench: standard, contextual and copyright behaviours apart, as written and polite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import Benchmark, pinned
from lpa_interp.prompt_sets.rows import Row, one_of, read_rows, unique_prompts
from lpa_interp.records import Prompt
from lpa_interp.trait_files import read_json

CATEGORIES = ("standard", "contextual", "copyright")
COLUMNS = ("Behavior", "FunctionalCategory", "SemanticCategory", "BehaviorID")
CONTEXT_SEPARATOR = "\n\n---\n\n"
"""Between the context of a contextual behaviour and its request, as HarmBench joins them."""

_TEST = pinned(
    "harmbench_behaviors_text_test.csv",
    "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29",
    "RaniaRez/reinforce-attacks-llms",
    "05a665f04633fd84fc4dc86e9afbe7dce213c961",
    "data/behavior_datasets/harmbench_behaviors_text_test.csv",
)
_VALIDATION = pinned(
    "harmbench_behaviors_text_val.csv",
    "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534",
    "RaniaRez/reinforce-attacks-llms",
    "05a665f04633fd84fc4dc86e9afbe7dce213c961",
    "data/behavior_datasets/harmbench_behaviors_text_val.csv",
)
_TARGETS = pinned(
    "harmbench_targets_text.json",
    "dedcac1f8c0108ca79e36589ef9693d5af916ed70878e60fb2c4c20482872e3f",
    "busycalibrating/AdversariaLLM",
    "f970939273ea17b491fadf6001fddc36ed3ae3ff",
    "data/optimizer_targets/harmbench_targets_text.json",
)
_POLITE = pinned(
    "harmbench_behaviors_polite.csv",
    "10cc4f8c0557184858c1ec912854e95f3cf517fb2e78c13d0c9a356a5fcf460f",
    "dwks/latent-adversarial-training-personality",
    "596f0eb181df4dd06efe0f96c154d59f3cf3f369",
    "dataset_test/harmbench_behaviors_polite.csv",
)


def parse_harmbench(
    paths: Sequence[Path], name: str, category: str, only_validation: bool = False
) -> list[Prompt]:
    """Behaviours of one functional category with their targets.

    Args:
        paths: The test file, unless ``only_validation``; the validation file; the targets; and
            for a polite set the file whose rows replace those of the first two.
        name: Of the set: the source of its prompts, with which their ids start.
        category: ``standard``, ``contextual`` or ``copyright``.
        only_validation: There is no test file.
    """
    splits = ("validation",) if only_validation else ("test", "validation")
    files = dict(zip(splits, paths, strict=False))
    targets_file, *polite = paths[len(splits) :]
    found = {split: read_rows(path, COLUMNS) for split, path in files.items()}
    if polite:
        found = _reworded(found, read_rows(polite[0], COLUMNS))
    targets = read_json(targets_file)
    if not isinstance(targets, dict):
        raise InputError(targets_file, "is not a table of targets", "{BehaviorID: target}")
    return unique_prompts(
        (place, _prompt(place, row, name, split, targets, targets_file))
        for split, rows in found.items()
        for place, row in rows
        if one_of(place, row, "FunctionalCategory", CATEGORIES) == category
    )


def _reworded(found: dict[str, list[Row]], polite: list[Row]) -> dict[str, list[Row]]:
    """The polite rows in the splits of the behaviours that they reword."""
    split_of = {row["BehaviorID"]: split for split, rows in found.items() for _, row in rows}
    sorted_out: dict[str, list[Row]] = {split: [] for split in found}
    for place, row in polite:
        if row["BehaviorID"] not in split_of:
            allowed = "an id of the test or validation file"
            raise InputError(place, f"BehaviorID: {row['BehaviorID']!r:.40} is unknown", allowed)
        sorted_out[split_of[row["BehaviorID"]]].append((place, row))
    return sorted_out


def _prompt(
    place: str,
    row: dict[str, Any],
    name: str,
    split: str,
    targets: dict[str, object],
    targets_file: Path,
) -> Prompt:
    target = targets.get(row["BehaviorID"])
    if not isinstance(target, str) or not target.strip():
        mistake = f"holds no target for {row['BehaviorID']!r}"
        raise InputError(targets_file, mistake, "a text for every behaviour")
    text = row["Behavior"]
    if row["FunctionalCategory"] == "contextual":
        if not row.get("ContextString", "").strip():
            raise InputError(place, "column 'ContextString' is empty", "a contextual row needs one")
        text = row["ContextString"] + CONTEXT_SEPARATOR + text
    return Prompt(
        id=f"{name}-{row['BehaviorID']}",
        text=text,
        harmful=True,
        category=row["SemanticCategory"],
        source=name,
        split=split,
        target=target,
    )


def _set(name: str, category: str, polite: bool = False) -> Benchmark:
    files = (_TEST, _VALIDATION, _TARGETS)
    note = "judge with the copyright classifier: a refusal judge sees refusals only"
    reworded = "; reworded in the release of arXiv 2605.08496" if polite else ""
    return Benchmark(
        name=name,
        folder="harmbench",
        files=(*files, _POLITE) if polite else files,
        parse=partial(parse_harmbench, name=name, category=category),
        source=f"HarmBench, {category} text behaviours{' reworded politely' if polite else ''}",
        licence="MIT",
        citation=f"Mazeika et al. 2024, HarmBench, arXiv 2402.04249{reworded}",
        splits=("validation", "test"),
        evaluation_split="test",
        note=note if category == "copyright" else "",
    )


HARMBENCH_SETS = (
    _set("harmbench", "standard"),
    _set("harmbench-contextual", "contextual"),
    _set("harmbench-copyright", "copyright"),
    _set("harmbench-polite", "standard", polite=True),
    _set("harmbench-polite-contextual", "contextual", polite=True),
    _set("harmbench-polite-copyright", "copyright", polite=True),
    Benchmark(
        name="harmbench-validation",
        folder="harmbench",
        files=(_VALIDATION, _TARGETS),
        parse=partial(parse_harmbench, name="harmbench", category="standard", only_validation=True),
        source="HarmBench, standard text behaviours of the validation split",
        licence="MIT",
        citation="Mazeika et al. 2024, HarmBench, arXiv 2402.04249",
    ),
)
