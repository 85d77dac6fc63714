"""Activations on disk, found again by the hash of everything that made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lpa_interp.errors import InputError
from lpa_interp.runs import atomic_path, content_hash
from probes.activations import Activations

_VERSION = 1
_REMOVE = "remove it; it is made again"


def cached_activations(
    folder: Path, key_parts: Mapping[str, object], make: Callable[[], Activations]
) -> Activations:
    """Activations from the cache, or made and put there.

    Args:
        folder: Of the cache; made where it is missing.
        key_parts: Everything that the activations depend on: hashes of model, adapter, chat
            template and texts, hook names, positions, dtype. Values as JSON knows them.
        make: Makes the activations where they are not in the cache.

    Raises:
        InputError: A key part is not JSON, the file is damaged or of other content, the disk is
            full or the folder cannot be written. A file that cannot be read is never taken for
            a missing one.
    """
    try:
        key = json.dumps([_VERSION, dict(key_parts)], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        allowed = "numbers, strings, lists and mappings: hash arrays before"
        raise InputError("key_parts", f"are not JSON: {error}", allowed) from None
    path = folder / f"activations-{content_hash(key)}.safetensors"
    if path.exists():
        return _read(path, key)
    made = make()
    _write(path, key, made)
    return made


def _write(path: Path, key: str, activations: Activations) -> None:
    tensors = {name: np.ascontiguousarray(array) for name, array in activations.values.items()}
    header = {
        "key": key,
        "hook_names": json.dumps(activations.hook_names),
        "positions": json.dumps(activations.positions),
        "sha256": _digest(tensors),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def _read(path: Path, key: str) -> Activations:
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = json.loads(header["hook_names"])  # a safetensors file orders by name
            values = {name: file.get_tensor(name) for name in names}
            positions = tuple(json.loads(header["positions"]))
            whole = header["sha256"] == _digest(values)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, f"is damaged: {error}", _REMOVE) from error
    if not whole:
        raise InputError(path, "is damaged: its content changed", _REMOVE)
    if header["key"] != key:
        raise InputError(path, "holds the activations of another key", _REMOVE)
    for array in values.values():
        array.setflags(write=False)
    return Activations(MappingProxyType(values), positions)


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and bytes: safetensors itself would not see a changed byte."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
