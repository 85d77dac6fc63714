"""The command ``lpa overlap``: which sets of texts are compared, and how that is shown."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.progress import Reporter
from lpa_interp.benchmarks import list_benchmarks, load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.overlap import prepare, set_overlaps
from lpa_interp.prepared_sets import HasText, PreparedSet
from lpa_interp.prompt_sets import BENCHMARKS
from lpa_interp.prompt_sets.user_file import is_user_file
from lpa_interp.records import NearPair, SetOverlap
from lpa_interp.traits import load_traits

STATEMENTS = ("traits:abstract", "traits:builtin")
"""The statement sets that are compared where none is named; the first is the control."""

SIDES = ("harmful", "harmless")
EXCERPT = 60
"""Characters of a text that the terminal shows."""


def run_overlap(options: argparse.Namespace, _: Mapping[str, Any]) -> None:
    """Compares sets of texts and prints what they share."""
    specs = list(options.sets) or default_sets()
    if len(options.sets) == 1:
        raise InputError("lpa overlap", "one set cannot be compared", "two or more, or none")
    for spec in specs:
        if specs.count(spec) > 1:
            raise InputError(f"set {spec}", "is named twice", "each set once")
    texts = {spec: load_set(spec) for spec in specs}
    with Reporter() as tell:
        sets = prepared(texts, None if options.no_embeddings else tell)
    overlaps: list[SetOverlap] = []
    near: list[NearPair] = []
    for first, second in itertools.combinations(sets, 2):
        if options.sets or not second.name.startswith("traits:"):
            rows, pairs = set_overlaps(first, second)
            overlaps += rows
            near += pairs
    if options.json:
        found: dict[str, Any] = {"sets": {spec: len(held) for spec, held in texts.items()}}
        found |= {"overlaps": [dataclasses.asdict(row) for row in overlaps]}
        found |= {"near_pairs": [dataclasses.asdict(pair) for pair in near]}
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        excerpts = {
            (spec, item.id): excerpt(item.text) for spec, held in texts.items() for item in held
        }
        show(overlaps, near, excerpts, everything=bool(options.sets))


def default_sets() -> list[str]:
    """Shipped statements and the prompt sets on this machine, the organism's requests too."""
    names = [row["name"] for row in list_benchmarks() if row["available"]]
    prompts = [name for name in names if BENCHMARKS[name].place != "lpa_personality"]
    return [*STATEMENTS, "requests:organism", *prompts]


def load_set(spec: str) -> Sequence[HasText]:
    """The texts that a SET of the command stands for.

    Raises:
        InputError: The set is unknown, not on this machine, or has no such part.
    """
    name, *parts = spec.split(":")
    if is_user_file(spec):
        return load_benchmark(spec)
    if name == "traits":
        return load_traits(":".join(parts))
    sides = [part for part in parts if part in SIDES]
    splits = [part for part in parts if part not in SIDES]
    if len(sides) > 1 or len(splits) > 1:
        raise InputError(f"set {spec}", "names more than one part", "NAME:SPLIT:SIDE at most")
    prompts = load_benchmark(name, split=splits[0] if splits else None)
    chosen = [prompt for prompt in prompts if not sides or prompt.side == sides[0]]
    if not chosen:
        raise InputError(f"set {spec}", "holds no prompt", f"{name} has none that is {sides[0]}")
    return chosen


def prepared(texts: Mapping[str, Sequence[HasText]], tell: Reporter | None) -> list[PreparedSet]:
    """The sets ready to be compared; with embeddings where ``tell`` is given and they can be."""
    if tell is None:
        return [prepare(spec, held) for spec, held in texts.items()]
    from lpa_interp.embeddings import HOW_TO_GET_IT, find_minilm, load_minilm

    if find_minilm() is None:
        tell.say(f"embedding cosines left out, the encoder is not here: {HOW_TO_GET_IT}")
        return [prepare(spec, held) for spec, held in texts.items()]
    total, before = sum(map(len, texts.values())), 0
    embed = load_minilm(lambda done, _: tell("embedding", before + done, total))
    sets = []
    for spec, held in texts.items():
        sets.append(prepare(spec, held, embed))
        before += len(held)
    return sets


def excerpt(text: str) -> str:
    """The first characters of a text on one line, without what a terminal would act on."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 3] + "..."


def show(
    overlaps: Sequence[SetOverlap],
    near: Sequence[NearPair],
    excerpts: Mapping[tuple[str, str], str],
    everything: bool,
) -> None:
    """Prints a row for each pair of sets, then the nearest texts of each by id and excerpt.

    Without ``everything`` no texts are shown, and pairs of prompt sets that share nothing are
    counted only.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    by_pair: dict[tuple[str, str], dict[str, SetOverlap]] = {}
    for row in overlaps:
        by_pair.setdefault((row.first, row.second), {})[row.measure] = row
    shown = {pair: found for pair, found in by_pair.items() if everything or _matters(pair, found)}
    table = Table(box=SIMPLE_HEAD)
    table.add_column("sets, texts", overflow="fold")
    for heading in ("same text", "8 words", "13 words", "tf-idf", "embedding"):
        table.add_column(heading, no_wrap=True)
    for (first, second), found in shown.items():
        sizes = f"{first}, {found['exact'].n_first}\n{second}, {found['exact'].n_second}"
        counts = [_counted(found[measure]) for measure in ("exact", "ngram_8", "ngram_13")]
        cosines = [_cosine(found.get(measure)) for measure in ("tfidf_cosine", "embedding_cosine")]
        table.add_row(sizes, *counts, *cosines)
    Console().print(table, markup=False)
    print("Counts: texts of the second set that match, of those long enough to measure.")
    print("Cosines with the nearest text of the first set: mean and largest.")
    if len(shown) < len(by_pair):
        print(f"{len(by_pair) - len(shown)} other pairs share no text and no run of 8 words.")
    if not everything:
        print("Name sets to see their nearest texts, or take --json.")
        return
    print("The nearest texts, by the last cosine of the table:")
    for pair in near:
        found = shown.get((pair.first, pair.second), {})
        if found and pair.measure == list(found)[-1]:
            print(f"  {pair.value:.2f}  {pair.first_id}: {excerpts[pair.first, pair.first_id]}")
            print(f"        {pair.second_id}: {excerpts[pair.second, pair.second_id]}")


def _matters(pair: tuple[str, str], found: Mapping[str, SetOverlap]) -> bool:
    matched = (found["exact"].n_matched or 0) + (found["ngram_8"].n_matched or 0)
    return pair[0].startswith("traits:") or matched > 0


def _counted(row: SetOverlap) -> str:
    return f"{row.n_matched}/{row.n_measured}"


def _cosine(row: SetOverlap | None) -> str:
    if row is None or row.mean is None or row.maximum is None:
        return "-"
    return f"{row.mean:.2f} {row.maximum:.2f}"
