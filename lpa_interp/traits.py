"""Statements to train on, from shipped or public sets, and splits by facet.

Every source ends as `TraitStatement` rows: positive statements want agreement, negative ones
want disagreement. Two kinds of source are there to compare personality statements with: plain
facts (``abstract``), and harmful and harmless requests (`lpa_interp.request_pairs`). Nothing
here needs torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets import BENCHMARKS
from lpa_interp.records import TraitStatement
from lpa_interp.request_pairs import (
    load_advbench_pairs,
    load_harmbench_pairs,
    load_request_pairs,
)
from lpa_interp.tables import data_file, shipped_file
from lpa_interp.trait_files import (
    AGREE,
    DISAGREE,
    SIDES,
    load_anthropic_persona,
    load_builtin,
    load_ipip_neo,
    load_published_csv,
)

__all__ = ["AGREE", "DISAGREE", "load_traits", "split_by_facet", "trait_sources"]


def load_traits(source: str = "builtin", path: Path | None = None) -> list[TraitStatement]:
    """Loads the statements of a source.

    ``builtin``, ``published_csv``, ``ipip_neo`` and ``anthropic_persona`` are personality
    statements. ``abstract`` is their control: plain true and false statements about things,
    matched in number and length to ``builtin``. ``requests``, ``advbench`` and ``harmbench``
    are harmful requests with refusals, as latent adversarial training was published with.

    Args:
        source: One of these names.
        path: The file or folder of a source; the shipped ones (``builtin``, ``abstract``,
            ``requests``) take none. Where it is None the source is looked for in
            ``LPA_DATA_DIR``: ``lpa_personality/dataset/D12``, ``ipip_neo/b5_johnson_120``,
            ``anthropic_persona`` and ``harmbench``; ``advbench`` is the pinned file of the
            benchmark, from ``LPA_DATA_DIR`` or the cache.

    Raises:
        InputError: The source is unknown, a file is missing, empty or not UTF-8, a column or
            key is missing, or a side, keying or label is not one of those allowed.
    """
    if source not in _SOURCES:
        raise InputError("traits.source", f"unknown source {source!r}", ", ".join(_SOURCES))
    entry = _SOURCES[source]
    if path is None and entry.default is not None:
        statements, place = entry.default(), source
    else:
        path = Path(path) if path is not None else _in_data_folder(source, entry)
        if entry.load is None:
            raise InputError("traits.path", f"is not used by the {source} set", "leave it out")
        statements, place = entry.load(path), str(path)
    _require_sound(statements, place)
    return statements


def trait_sources() -> list[dict[str, Any]]:
    """One row a source: name, n, sides, source, licence, available and the reason when not."""
    rows = []
    for name, entry in _SOURCES.items():
        row: dict[str, Any] = {"name": name, "n": None, "sides": None}
        row |= {"source": entry.origin, "licence": entry.licence, "available": True, "reason": ""}
        try:
            statements = load_traits(name)
        except InputError as error:
            row |= {"available": False, "reason": str(error)}
        else:
            row["n"] = len(statements)
            row["sides"] = {
                side: sum(statement.side == side for statement in statements) for side in SIDES
            }
        rows.append(row)
    return rows


def split_by_facet(
    statements: Sequence[TraitStatement], share: float, seed: int
) -> tuple[list[TraitStatement], list[TraitStatement]]:
    """Splits whole facets: near-duplicates within a facet never fall on both sides.

    Facets are drawn apart by the trait sides they hold, so both parts keep both sides wherever
    a kind has two facets or more.

    Args:
        statements: What to split.
        share: The share of facets that goes to the first part, above 0 and below 1.
        seed: Of the draw.

    Raises:
        InputError: ``share`` is out of range, or there are fewer than two facets.
    """
    if not 0 < share < 1:
        raise InputError("share", f"{share} is not allowed", "above 0 and below 1")
    sides: dict[str, set[str]] = {}
    for statement in statements:
        sides.setdefault(statement.facet, set()).add(statement.side)
    if len(sides) < 2:
        raise InputError("traits", f"{len(sides)} facets cannot be split", "two or more")
    kinds: dict[tuple[str, ...], list[str]] = {}
    for facet, held in sides.items():
        kinds.setdefault(tuple(sorted(held)), []).append(facet)
    first = _draw([sorted(kinds[kind]) for kind in sorted(kinds)], share, seed)
    if not first or len(first) == len(sides):
        # Every kind holds one facet and rounds the same way: move one so that no part is empty.
        first ^= {min(sides)}
    inside = [statement for statement in statements if statement.facet in first]
    outside = [statement for statement in statements if statement.facet not in first]
    return inside, outside


def _draw(groups: Sequence[Sequence[str]], share: float, seed: int) -> set[str]:
    """About ``share`` of each group, and neither none nor all of a group of two or more."""
    generator = random.Random(seed)
    drawn: set[str] = set()
    for group in groups:
        n_drawn = round(share * len(group))
        if len(group) > 1:
            n_drawn = min(max(n_drawn, 1), len(group) - 1)
        drawn.update(generator.sample(group, n_drawn))
    return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A set of statements: where it comes from and how it is read.

    ``load`` reads what ``traits.path`` names, None where the set takes no path. Without a path
    ``default`` is called; where there is none, ``load`` reads ``place`` in ``LPA_DATA_DIR``.
    """

    origin: str
    licence: str
    load: Callable[[Path], list[TraitStatement]] | None = None
    default: Callable[[], list[TraitStatement]] | None = None
    place: tuple[str, ...] = ()


def _in_data_folder(source: str, entry: _Source) -> Path:
    path = data_file(*entry.place)
    if path is None:
        allowed = f"set traits.path, or LPA_DATA_DIR to a folder that holds {'/'.join(entry.place)}"
        raise InputError("traits.path", f"{source} is not on this machine", allowed)
    return path


def _require_sound(statements: Sequence[TraitStatement], place: str) -> None:
    if not statements:
        raise InputError(place, "holds no statements", "one or more")
    seen: set[str] = set()
    for statement in statements:
        if not statement.text:
            raise InputError(place, f"statement {statement.id!r} is empty", "a sentence")
        if statement.id in seen:
            raise InputError(place, f"id {statement.id!r} occurs twice", "each id once")
        seen.add(statement.id)


_SOURCES: dict[str, _Source] = {
    "builtin": _Source(
        origin="shipped with lpa_interp",
        licence="MIT",
        default=partial(load_builtin, shipped_file("traits.csv")),
    ),
    "published_csv": _Source(
        origin="dwks/latent-adversarial-training-personality, arXiv 2605.08496",
        licence="MIT",
        load=load_published_csv,
        place=("lpa_personality", "dataset", "D12"),
    ),
    "ipip_neo": _Source(
        origin="IPIP-NEO, Goldberg 1999 and Johnson 2014",
        licence="public domain (repository MIT)",
        load=load_ipip_neo,
        place=("ipip_neo", "b5_johnson_120"),
    ),
    "anthropic_persona": _Source(
        origin="anthropics/evals persona, Perez et al. 2022",
        licence="CC-BY-4.0",
        load=load_anthropic_persona,
        place=("anthropic_persona",),
    ),
    "abstract": _Source(
        origin="shipped with lpa_interp; plain facts, no personality",
        licence="MIT",
        default=partial(load_builtin, shipped_file("abstract.csv")),
    ),
    "requests": _Source(
        origin="shipped with lpa_interp; its requests of split organism",
        licence="MIT",
        default=load_request_pairs,
    ),
    "advbench": _Source(
        origin="AdvBench, Zou et al. 2023, with the shipped harmless requests",
        licence=BENCHMARKS["advbench"].licence,
        load=load_advbench_pairs,
        default=load_advbench_pairs,
    ),
    "harmbench": _Source(
        origin="HarmBench validation split, Mazeika 2024, with the shipped harmless requests",
        licence="MIT",
        load=load_harmbench_pairs,
        place=("harmbench",),
    ),
}
