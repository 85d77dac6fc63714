"""The run directory: atomic writes, completion markers, resume.

Layout (see the README): ``study.toml provenance.json stages.jsonl train/ adapter/ behaviour/
probes/ features/ figures/ report.html README.md``. A stage is done when its marker in
``.stages/`` holds the key of the inputs that made it; a folder half written has no marker.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lpa_interp.errors import InputError

Row = TypeVar("Row")


def content_hash(value: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` and moves it there when the block succeeds.

    Raises:
        InputError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary: Path | None = None
    with plain_disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(descriptor)
            temporary = Path(name)
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


@contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Says a full disk or a folder that cannot be written in one line.

    Raises:
        InputError: In place of the operating system's error; any other error passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(path, "the disk is full", "free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise InputError(path, f"cannot be written: {error.strerror}") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Writes records as JSON lines, whole or not at all. NaN and infinity become null."""
    write_text(path, "".join(row_line(row) for row in rows))


def row_line(row: Any) -> str:
    """One record as a line of JSON."""
    return json.dumps({k: _finite(v) for k, v in dataclasses.asdict(row).items()}) + "\n"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(path: Path, record: type[Row]) -> list[Row]:
    """Reads JSON lines into records; an absent file gives an empty list.

    Raises:
        InputError: A line is not JSON or does not fit the record.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(record(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise InputError(
                f"{path}:{number}", f"is not a {record.__name__} row: {error}"
            ) from None
    return rows


class RunDirectory:
    """A folder that one study owns. Stages ask it what is done and tell it what they did."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def claim(self, study_hash: str) -> None:
        """Takes the folder for a study.

        Raises:
            InputError: The folder is a file, or belongs to another study, or holds other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(self.path, "is a file", "give --out a folder")
        owner = self.path / ".stages" / "owner.json"
        if owner.exists():
            found = json.loads(owner.read_text(encoding="utf-8"))["study"]
            if found != study_hash:
                raise InputError(
                    self.path, "holds the run of another study", "give --out another folder"
                )
            for left in self.path.rglob(".*.*.*"):  # half-written when an earlier call was killed
                if left.is_file():
                    left.unlink()
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise InputError(
                self.path, "is not empty and not a run directory", "give --out a new folder"
            )
        write_json(owner, {"study": study_hash})

    def done(self, stage: str, key: str) -> bool:
        """Whether the stage finished from exactly these inputs."""
        marker = self._marker(stage)
        return marker.exists() and json.loads(marker.read_text(encoding="utf-8"))["key"] == key

    def begin(self, stage: str) -> None:
        """Removes the stage's marker: its files are about to be made again."""
        self._marker(stage).unlink(missing_ok=True)

    def finish(self, stage: str, key: str) -> None:
        """Marks the stage as done from the inputs that ``key`` hashes."""
        write_json(self._marker(stage), {"key": key})

    def _marker(self, stage: str) -> Path:
        return self.path / ".stages" / f"{stage}.json"
