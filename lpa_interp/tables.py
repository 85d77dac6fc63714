"""Reading text and csv files with mistakes named by file, line and column."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from lpa_interp.errors import InputError

CsvRow = tuple[str, dict[str, str]]
"""The place of a row (``file:line``) and its fields by column."""


def shipped_file(name: str) -> Path:
    """A file that is installed with the package."""
    return Path(str(files("lpa_interp").joinpath("data").joinpath(name)))


def data_file(*parts: str) -> Path | None:
    """A file or folder of ``LPA_DATA_DIR``; None where the variable or the file is missing."""
    root = os.environ.get("LPA_DATA_DIR")
    path = Path(root).expanduser().joinpath(*parts) if root else None
    return path if path is not None and path.exists() else None


def read_text(path: Path) -> str:
    """A UTF-8 file as text, line ends kept, without a byte-order mark.

    Raises:
        InputError: The file is missing or not UTF-8; names the line of the first bad byte.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}", "is not UTF-8", "save the file as UTF-8") from None


def read_csv(path: Path, required: Sequence[str]) -> list[CsvRow]:
    """Rows of a csv file with a header; ``required`` columns must be there and filled.

    Raises:
        InputError: The file is missing, not UTF-8, empty or not csv, a column is missing, or a
            row has too many or too few fields or an empty one.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[CsvRow] = []
    line = 1
    try:
        header = next(reader, [])
        missing = [column for column in required if column not in header]
        if missing:
            allowed = f"needs the columns {', '.join(required)}"
            raise InputError(f"{path}:1", f"column {missing[0]!r} is missing", allowed)
        line = reader.line_num + 1
        for fields in reader:
            if fields:
                rows.append((f"{path}:{line}", _named(f"{path}:{line}", header, fields, required)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{line}", f"is not csv: {error}") from None
    if not rows:
        raise InputError(path, "holds no rows", "one row or more after the header")
    return rows


def _named(
    place: str, header: Sequence[str], fields: Sequence[str], required: Sequence[str]
) -> dict[str, str]:
    if len(fields) != len(header):
        raise InputError(place, f"has {len(fields)} fields", f"{len(header)}, as the header")
    row = dict(zip(header, fields, strict=True))
    for column in required:
        if not row[column].strip():
            raise InputError(place, f"column {column!r} is empty", "every row needs one")
    return row
