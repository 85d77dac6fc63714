"""Directions on disk: one safetensors file, what each direction is in its header."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lpa_interp.errors import InputError
from lpa_interp.records import Direction, ModelLabel
from lpa_interp.runs import atomic_path

_FIELDS = {field.name for field in dataclasses.fields(Direction)} - {"vector"}


def save_directions(path: Path, directions: Sequence[Direction]) -> None:
    """Writes directions to one safetensors file, whole or not at all.

    The tensors are named ``0``, ``1``, ... and the header holds each one's other fields as JSON.

    Raises:
        InputError: Two directions cannot be told apart, or a vector is not a finite unit vector.
    """
    keys = [_key(direction) for direction in directions]
    if len(set(keys)) < len(keys):
        raise InputError(path, "two directions have the same name, model, hook point and method")
    for direction in directions:
        _require_unit(path, direction)
    tensors = {str(i): np.ascontiguousarray(d.vector) for i, d in enumerate(directions)}
    header = {
        str(i): json.dumps({name: getattr(d, name) for name in sorted(_FIELDS)})
        for i, d in enumerate(directions)
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_directions(path: Path) -> list[Direction]:
    """Reads all directions of a file, in the order they were saved.

    Raises:
        InputError: The file is missing, or does not hold directions.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            found = [
                Direction(**json.loads(header[str(i)]), vector=file.get_tensor(str(i)))
                for i in range(len(header))
            ]
    except FileNotFoundError:
        raise InputError(path, "no such file", "make it with save_directions") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"does not hold directions: {error}") from error
    for direction in found:
        _require_unit(path, direction)
    return found


def load_direction(
    path: Path, name: str, model: ModelLabel | None = None, layer: int | None = None
) -> Direction:
    """Reads the one direction of that name, and of that model and layer where they are given.

    Raises:
        InputError: There is none, or more than one.
    """
    found = [
        direction
        for direction in load_directions(path)
        if direction.name == name
        and model in (None, direction.model)
        and layer in (None, direction.layer)
    ]
    if len(found) != 1:
        there = ", ".join("/".join(map(str, _key(d)[:3])) for d in found or load_directions(path))
        wanted = "more than one direction" if found else "no direction"
        raise InputError(path, f"{wanted} {name!r}", f"there: {there}")
    return found[0]


def _key(direction: Direction) -> tuple[str, str, str, int, str]:
    d = direction
    return (d.model, d.name, d.hook_name, d.position, d.method)


def _require_unit(path: Path, direction: Direction) -> None:
    vector = direction.vector
    if vector.ndim != 1 or vector.dtype != np.float32 or not np.isfinite(vector).all():
        raise InputError(path, f"direction {direction.name!r} is not a finite float32 vector")
    if abs(float(np.linalg.norm(vector)) - 1) > 1e-4:
        raise InputError(path, f"direction {direction.name!r} is not a unit vector")
