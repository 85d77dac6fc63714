"""Ways of doing the same thing, timed in turn on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from experiments.bench import wait
from lpa_interp.model import HookedTransformer

BATCH_SIZE = 16
REPEATS = 5
TOLERANCE = 1e-4
"""Largest difference, nats, of numbers that ought to be the same."""


def in_turn(
    ways: Mapping[str, Callable[[], Any]],
    repeats: int,
    model: HookedTransformer,
    warm: bool = True,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way over repeats in turn, and its result.

    With ``warm`` a first repeat does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    device = torch.device(str(model.cfg.device))
    for repeat in range(-warm, repeats):
        for name, run in ways.items():
            wait(device)
            start = time.perf_counter()
            found[name] = run()
            wait(device)
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return times, found


def require(holds: bool, otherwise: str) -> None:
    """Stops a bench whose sides do not do the same.

    Raises:
        RuntimeError: It does not hold.
    """
    if not holds:
        raise RuntimeError(otherwise)
