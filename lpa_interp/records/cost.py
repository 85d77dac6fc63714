"""Rows of ``stages.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """What a stage cost, a row of ``stages.jsonl``. ``reused`` stages came from the cache."""

    stage: str
    seconds: float
    peak_memory_mib: float
    reused: bool
