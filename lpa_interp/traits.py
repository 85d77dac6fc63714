"""Personality statements from the shipped set or a public one, and splits by facet.

Every source ends as `TraitStatement` rows: positive statements want agreement, negative ones
want disagreement. Nothing here needs torch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.records import TraitStatement
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
    """Loads personality statements.

    Args:
        source: ``builtin``, ``published_csv``, ``ipip_neo`` or ``anthropic_persona``.
        path: The file or folder of every source but ``builtin``. Where it is None the source
            is looked for in ``LPA_DATA_DIR``: ``lpa_personality/dataset/D12``,
            ``ipip_neo/b5_johnson_120`` and ``anthropic_persona``.

    Raises:
        InputError: The source is unknown, a file is missing, empty or not UTF-8, a column or
            key is missing, or a side, keying or label is not one of those allowed.
    """
    if source not in _LOADERS:
        raise InputError("traits.source", f"unknown source {source!r}", ", ".join(_LOADERS))
    if source == "builtin":
        if path is not None:
            raise InputError("traits.path", "is not used by the builtin set", "leave it out")
        path = shipped_file("traits.csv")
    path = path or data_file(*_DEFAULT_PLACES[source])
    if path is None:
        place = "/".join(_DEFAULT_PLACES[source])
        allowed = f"set traits.path, or LPA_DATA_DIR to a folder that holds {place}"
        raise InputError("traits.path", f"{source} is not on this machine", allowed)
    statements = _LOADERS[source](Path(path))
    _require_sound(statements, Path(path))
    return statements


def trait_sources() -> list[dict[str, Any]]:
    """One row a source: name, n, sides, source, licence, available and the reason when not."""
    rows = []
    for name, (origin, licence) in _ORIGINS.items():
        row: dict[str, Any] = {"name": name, "n": None, "sides": None}
        row |= {"source": origin, "licence": licence, "available": True, "reason": ""}
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


def _require_sound(statements: Sequence[TraitStatement], path: Path) -> None:
    if not statements:
        raise InputError(path, "holds no statements", "one or more")
    seen: set[str] = set()
    for statement in statements:
        if not statement.text:
            raise InputError(path, f"statement {statement.id!r} is empty", "a sentence")
        if statement.id in seen:
            raise InputError(path, f"id {statement.id!r} occurs twice", "each id once")
        seen.add(statement.id)


_LOADERS: dict[str, Callable[[Path], list[TraitStatement]]] = {
    "builtin": load_builtin,
    "published_csv": load_published_csv,
    "ipip_neo": load_ipip_neo,
    "anthropic_persona": load_anthropic_persona,
}
_DEFAULT_PLACES: dict[str, tuple[str, ...]] = {
    "published_csv": ("lpa_personality", "dataset", "D12"),
    "ipip_neo": ("ipip_neo", "b5_johnson_120"),
    "anthropic_persona": ("anthropic_persona",),
}
_ORIGINS: dict[str, tuple[str, str]] = {
    "builtin": ("shipped with lpa_interp", "MIT"),
    "published_csv": ("dwks/latent-adversarial-training-personality, arXiv 2605.08496", "MIT"),
    "ipip_neo": ("IPIP-NEO, Goldberg 1999 and Johnson 2014", "public domain (repository MIT)"),
    "anthropic_persona": ("anthropics/evals persona, Perez et al. 2022", "CC-BY-4.0"),
}
