from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lpa_interp.errors import InputError
from probes.activations import Activations
from probes.cache import cached_activations

KEY = {"model": "abc", "hook_names": ["blocks.10.hook_resid_pre"], "positions": [-2, -1]}


def made() -> Activations:
    rng = np.random.default_rng(0)
    values = {
        f"blocks.{layer}.hook_resid_pre": rng.standard_normal((3, 2, 4)).astype(np.float32)
        for layer in (2, 10)
    }
    return Activations(values, (-2, -1))


def never() -> Activations:
    raise AssertionError("made again")


def test_activations_come_back_from_the_disk_as_they_were_made(tmp_path: Path) -> None:
    first = cached_activations(tmp_path / "new", KEY, made)
    again = cached_activations(tmp_path / "new", dict(reversed(KEY.items())), never)
    assert again.hook_names == first.hook_names  # network order, not that of the alphabet
    assert again.positions == (-2, -1)
    for name in first.hook_names:
        np.testing.assert_array_equal(again.values[name], first.values[name])
    with pytest.raises(ValueError, match="read-only"):
        again.at("blocks.2.hook_resid_pre")[0] = 0
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_any_other_key_is_made_anew(tmp_path: Path) -> None:
    cached_activations(tmp_path, KEY, made)
    for change in ({"model": "abd"}, {"positions": [-1]}, {"adapter": None}):
        with pytest.raises(AssertionError, match="made again"):
            cached_activations(tmp_path, KEY | change, never)


def test_nothing_is_left_behind_where_making_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached_activations(tmp_path / "cache", KEY, never)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "renamed"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    cached_activations(tmp_path, KEY, made)
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    if damage == "renamed":
        cached_activations(tmp_path, KEY | {"model": "other"}, made)
        other = next(file for file in tmp_path.iterdir() if file != path)
        content = bytearray(other.read_bytes())
    content[-1] ^= damage == "flipped"
    path.write_bytes({"cut": content[:-7], "empty": b""}.get(damage, bytes(content)))
    with pytest.raises(InputError, match=rf"{path.name}.*remove it"):
        cached_activations(tmp_path, KEY, never)
    path.unlink()
    assert cached_activations(tmp_path, KEY, made).n == 3


def test_a_key_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    for value in (np.arange(3), Path("x"), float("nan")):
        with pytest.raises(InputError, match="key_parts: are not JSON"):
            cached_activations(tmp_path, {"rows": value}, made)
