from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from pathlib import Path

import pytest

from lpa_interp.errors import InputError
from lpa_interp.records import StageTime
from lpa_interp.runs import (
    RunDirectory,
    atomic_path,
    content_hash,
    file_hash,
    read_rows,
    row_line,
    write_json,
    write_rows,
    write_text,
)


def row(stage: str = "train", seconds: float = 1.5) -> StageTime:
    return StageTime(stage=stage, seconds=seconds, peak_memory_mib=10.0, reused=False)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_failed_write_leaves_nothing_behind(failure: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(failure), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot be written")],
)
def test_a_disk_that_does_not_take_the_file_is_one_line(
    number: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message), atomic_path(tmp_path / "file.txt"):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "file" / "inner.txt", "text")


def test_a_temporary_file_never_has_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and not path.exists()
    assert path.stat().st_mode & 0o777 == 0o644


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = [row("train"), row("probe", 2.25)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl", StageTime) == rows
    assert read_rows(tmp_path / "absent.jsonl", StageTime) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_become_null(value: float, tmp_path: Path) -> None:
    assert json.loads(row_line(row(seconds=value)))["seconds"] is None
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"value": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["{", '{"stage": "train"}', '{"unknown": 1}', "[]"])
def test_a_damaged_row_names_its_file_and_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row_line(row()) + line + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl:2: is not a StageTime row"):
        read_rows(path, StageTime)


def test_hashes_depend_on_the_content_alone(tmp_path: Path) -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    (tmp_path / "file").write_bytes(b"bytes")
    assert file_hash(tmp_path / "file") == hashlib.sha256(b"bytes").hexdigest()


def test_a_stage_is_done_for_the_inputs_that_made_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("study")
    assert not run.done("train", "key")
    run.finish("train", "key")
    assert run.done("train", "key") and not run.done("train", "other")
    run.begin("train")
    assert not run.done("train", "key")


def test_a_study_claims_its_folder_again_and_no_other(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("study")
    (run / "file.txt").write_text("a result")
    run.claim("study")
    with pytest.raises(InputError, match="another study"):
        run.claim("other")


def test_folders_that_are_no_run_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not a run directory"):
        RunDirectory(tmp_path).claim("study")
    with pytest.raises(InputError, match="is a file"):
        RunDirectory(tmp_path / "mine.txt").claim("study")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    RunDirectory(tmp_path / "empty").claim("study")


def test_a_resumed_run_clears_what_a_killed_call_left_half_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("study")
    (run / "train").mkdir()
    left, kept = run / "train" / ".checkpoint.safetensors.x1y2", run / "train" / "log.jsonl"
    left.write_text("half"), kept.write_text("whole")
    run.claim("study")
    assert not left.exists() and kept.exists()
