"""Texts: statements to train on and prompts to measure with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lpa_interp.records.labels import PromptSide, TraitSide


@dataclass(frozen=True, slots=True, kw_only=True)
class TraitStatement:
    """A statement, or a request, with the answer wanted and the answer not wanted.

    ``keying`` is ``plus`` where agreeing scores high on ``factor``, ``minus`` where low.
    """

    id: str
    text: str
    side: TraitSide
    factor: str
    facet: str
    keying: Literal["plus", "minus"]
    desired: str
    undesired: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request of a benchmark. ``pair`` joins a harmful request to its harmless twin."""

    id: str
    text: str
    harmful: bool
    category: str
    source: str
    split: str | None = None
    pair: str | None = None
    target: str | None = None

    @property
    def side(self) -> PromptSide:
        """The side of the benchmark that the prompt is on."""
        return "harmful" if self.harmful else "harmless"
