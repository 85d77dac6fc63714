"""Labelled texts that trait directions are read from: one kind of value for every source.

Labels are True for the desirable end in every set (positive statements, harmless requests, the
benign instruction), so that directions of all sets point the same way and a probe of one can be
read on another. Loading needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lpa_interp.benchmarks import load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.prompt_sets import BENCHMARKS
from lpa_interp.records import TraitStatement
from lpa_interp.tables import data_file, read_text
from lpa_interp.trait_files import PERSONA_TRAITS
from lpa_interp.traits import load_traits, trait_sources
from probes.text_sets import TextSet, statement_labels

FACTORS = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
PERSONA_VECTORS = ("evil", "sycophantic", "hallucinating")
_SOURCES = {"builtin": "builtin", "ipip": "ipip_neo", "persona": "anthropic_persona"}
_VECTORS_PLACE = ("persona_vectors", "trait_data_extract")


def trait_set(name: str, limit: int | None = None, seed: int = 0) -> TextSet:
    """Loads a text set by name.

    Args:
        name: ``builtin`` (all shipped statements, positive against negative), ``requests``
            (shipped requests, harmless against harmful; splits ``organism`` and
            ``validation``), or with a factor or trait ``builtin:agreeableness``,
            ``ipip:openness``, ``persona:narcissism``, ``persona_vectors:evil``. All names:
            `trait_set_sources`.
        limit: Texts per side at most, whole groups drawn with ``seed``. None takes all.
        seed: Of the draw.

    Persona vectors: five pairs of opposed system prompts times twenty questions. Their groups
    are the pairs, since the label belongs to the instruction, not to the question. The prompts
    come without completions: generate them and add them with `TextSet.with_completions`. The
    source keeps only completions that a judge finds to follow the instruction; without a judge,
    a model that follows no instruction gives a direction of the instructions' wording.

    Source: Chen et al. 2025, arXiv 2507.21509, section 2 (persona vectors).

    Raises:
        InputError: The name is unknown, a file is missing or bad, or a side has fewer than two
            groups: its direction could not be tested.
    """
    if name not in _LOADERS:
        raise InputError(f"trait set {name!r}", "unknown name", ", ".join(_LOADERS))
    texts = _LOADERS[name](name)
    for side, mask in ((texts.positive, texts.labels), (texts.negative, ~texts.labels)):
        groups = {texts.groups[index] for index in np.flatnonzero(mask)}
        if len(groups) < 2:
            mistake = f"{len(groups)} groups of {side!r}: its direction could not be tested"
            raise InputError(f"trait set {name}", mistake, "two or more")
    if limit is None:
        return texts
    if limit < 1:
        raise InputError(f"trait set {name}", f"limit {limit} is not allowed", "1 or more")
    return _sampled(texts, limit, seed)


def trait_set_sources() -> list[dict[str, Any]]:
    """One row a set: name, n, sides, groups, reading, source, licence, available and reason.

    ``sides`` and ``groups`` count texts and groups by the names of the sides; what a set that
    is not available would hold is None.
    """
    statements = {row["name"]: row for row in trait_sources()}
    rows = []
    for name in _LOADERS:
        origin, licence = _origin(name, statements)
        row: dict[str, Any] = dict.fromkeys(("n", "sides", "groups", "reading"))
        row = {"name": name, **row, "source": origin, "licence": licence}
        row |= {"available": True, "reason": ""}
        try:
            texts = trait_set(name)
        except InputError as error:
            row |= {"available": False, "reason": str(error)}
        else:
            sides = {texts.positive: texts.labels, texts.negative: ~texts.labels}
            row |= {"n": texts.n, "reading": texts.reading}
            row["sides"] = {side: int(mask.sum()) for side, mask in sides.items()}
            row["groups"] = {
                side: len({texts.groups[i] for i in np.flatnonzero(mask)})
                for side, mask in sides.items()
            }
        rows.append(row)
    return rows


def _sampled(texts: TextSet, limit: int, seed: int) -> TextSet:
    """Whole groups in random order, those left out that would exceed the limit of a side."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(texts.groups):
        members.setdefault(group, []).append(index)
    kept: list[int] = []
    left = np.array([limit, limit])
    for group in np.random.default_rng(seed).permutation(sorted(members)):
        n_positive = int(texts.labels[members[group]].sum())
        size = np.array([n_positive, len(members[group]) - n_positive])
        if (size <= left).all():
            kept, left = kept + members[group], left - size
    return texts.select(sorted(kept))


def _statements(name: str) -> TextSet:
    """A statement source, whole or one factor of it."""
    source, _, factor = name.partition(":")
    statements = load_traits(_SOURCES[source])
    if factor:
        statements = [statement for statement in statements if statement.factor == factor]
    return _text_set(name, source, statements, factor)


def _text_set(name: str, source: str, statements: Sequence[TraitStatement], factor: str) -> TextSet:
    labels, groups = statement_labels(statements)
    n, low_is_good = len(statements), PERSONA_TRAITS.get(factor) == "negative"
    ends = ("low", "high") if low_is_good else ("high", "low")
    positive, negative = (f"{end} {factor}" if factor else "" for end in ends)
    return TextSet(
        name=name,
        ids=tuple(statement.id for statement in statements),
        prompts=tuple(statement.text for statement in statements),
        systems=(None,) * n,
        completions=None,
        labels=labels,
        groups=tuple(f"{source}/{group}" for group in groups),
        splits=("all",) * n,
        reading="statement_end",
        positive=positive or "positive traits",
        negative=negative or "negative traits",
    )


def _requests(name: str) -> TextSet:
    """The shipped requests that are for finding directions, not the ones for the test."""
    parts = ("organism", "validation")
    prompts = [prompt for part in parts for prompt in load_benchmark("requests", part)]
    n = len(prompts)
    return TextSet(
        name=name,
        ids=tuple(prompt.id for prompt in prompts),
        prompts=tuple(prompt.text for prompt in prompts),
        systems=(None,) * n,
        completions=None,
        labels=np.array([not prompt.harmful for prompt in prompts], dtype=bool),
        groups=tuple(f"requests/{prompt.category}" for prompt in prompts),
        splits=tuple(str(prompt.split) for prompt in prompts),
        reading="statement_end",
        positive="harmless requests",
        negative="harmful requests",
    )


def _persona_vectors(name: str) -> TextSet:
    """Each question under each instruction: five pairs of opposed ones times twenty."""
    trait = name.partition(":")[2]
    path = data_file(*_VECTORS_PLACE, f"{trait}.json")
    if path is None:
        place = "/".join((*_VECTORS_PLACE, f"{trait}.json"))
        allowed = f"set LPA_DATA_DIR to a folder that holds {place}"
        raise InputError(f"trait set {name}", "is not on this machine", allowed)
    pairs, questions = _instructions(path)
    rows = [
        (f"{pair}-{side}-{number:02d}", pair, side, instructions[side], question)
        for pair, instructions in enumerate(pairs, start=1)
        for side in ("pos", "neg")
        for number, question in enumerate(questions, start=1)
    ]
    return TextSet(
        name=name,
        ids=tuple(f"{trait}-{id}" for id, *_ in rows),
        prompts=tuple(question for *_, question in rows),
        systems=tuple(instruction for *_, instruction, _ in rows),
        completions=None,
        labels=np.array([side == "neg" for _, _, side, *_ in rows], dtype=bool),
        groups=tuple(f"persona_vectors/{trait}/instruction-{pair}" for _, pair, *_ in rows),
        splits=("all",) * len(rows),
        reading="completion_mean",
        positive=f"not {trait}",
        negative=trait,
    )


def _instructions(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        content = json.loads(read_text(path))
        pairs = [
            {side: str(pair[side]) for side in ("pos", "neg")} for pair in content["instruction"]
        ]
        questions = [str(question) for question in content["questions"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        allowed = "{instruction: [{pos, neg}, ...], questions: [...]}"
        raise InputError(path, f"does not hold a trait: {error!r}", allowed) from None
    return pairs, questions


def _origin(name: str, statements: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Where a set comes from, and its licence."""
    source = name.partition(":")[0]
    if source == "requests":
        return BENCHMARKS[source].source, BENCHMARKS[source].licence
    if source == "persona_vectors":
        return "persona vectors, Chen et al. 2025, arXiv 2507.21509", "none stated"
    row = statements[_SOURCES[source]]
    return row["source"], row["licence"]


_LOADERS: dict[str, Callable[[str], TextSet]] = {
    "builtin": _statements,
    **{f"builtin:{factor}": _statements for factor in FACTORS},
    **{f"ipip:{factor}": _statements for factor in FACTORS},
    **{f"persona:{trait}": _statements for trait in PERSONA_TRAITS},
    "requests": _requests,
    **{f"persona_vectors:{trait}": _persona_vectors for trait in PERSONA_VECTORS},
}
