"""Selection and crossover of templates: texts with a place for the request.

Source: Liu et al. 2023, arXiv 2310.04451, section 3 and the crossover function of the appendix.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

PLACE = "[REQUEST]"
"""Where a template holds the request."""


def fill(template: str, request: str) -> str:
    """The template with the request in its place."""
    return template.replace(PLACE, request)


def offspring(
    population: Sequence[str],
    fitness: Sequence[float],
    n_children: int,
    crossover_rate: float,
    n_points: int,
    rng: random.Random,
) -> list[str]:
    """Children of parents drawn with softmax(fitness): crossed pairs, or the parents themselves.

    Args:
        population: Templates.
        fitness: Of each; -inf is never drawn. At least one is finite.
        n_children: How many to make.
        crossover_rate: Share of the pairs that cross.
        n_points: Places at most at which a pair changes sides.
        rng: Moved on by every draw.
    """
    weights = [math.exp(value - max(fitness)) for value in fitness]
    parents = rng.choices(population, weights, k=n_children)
    children: list[str] = []
    for start in range(0, n_children, 2):
        pair = parents[start], parents[(start + 1) % n_children]
        children += crossover(*pair, n_points, rng) if rng.random() < crossover_rate else pair
    return children[:n_children]


def crossover(first: str, second: str, n_points: int, rng: random.Random) -> tuple[str, str]:
    """Two children of two templates: between points, sentences change sides or do not, by chance.

    Each child holds the place of the request exactly once. A template of one sentence has no
    point to cross at.
    """
    sides = [re.split(r"(?<=[.!?])\s+", text.strip()) for text in (first, second)]
    most = min(len(side) for side in sides) - 1
    points = sorted(rng.sample(range(1, most + 1), min(n_points, most)))
    children: tuple[list[str], list[str]] = ([], [])
    for start, end in zip([0, *points], [*points, None], strict=True):
        parts = [side[start:end] for side in sides]
        if rng.random() < 0.5:
            parts.reverse()
        for child, part in zip(children, parts, strict=True):
            child += part
    return _one_place(" ".join(children[0])), _one_place(" ".join(children[1]))


def _one_place(template: str) -> str:
    """The template with its first place for the request alone; at the end where it has none."""
    before, place, after = template.partition(PLACE)
    return before + PLACE + after.replace(PLACE, "") if place else f"{template} {PLACE}"
