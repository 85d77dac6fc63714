"""Chunks of an evaluation in the run directory: what is measured is not measured again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lpa_interp.chunks import Rows
from lpa_interp.records import Completion, Verdict
from lpa_interp.runs import plain_disk_errors


class KeptChunks:
    """Rows by key, one line of JSON a chunk, on disk as soon as the chunk is done.

    A line that a killed process left torn is dropped with everything after it.
    """

    def __init__(self, path: Path, made_by: str) -> None:
        """Opens the file; lines of other settings (``made_by``) count for nothing."""
        self.path, self.made_by = path, made_by
        self.rows: dict[str, Rows] = {}
        if path.exists():
            self._read()

    def get(self, key: str) -> Rows | None:
        """The rows kept under a key, or None."""
        return self.rows.get(key)

    def put(self, key: str, rows: Rows) -> None:
        """Appends a chunk."""
        self.rows[key] = rows
        line = {"made_by": self.made_by, "key": key} | dataclasses.asdict(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with plain_disk_errors(self.path), self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def remove(self) -> None:
        """Everything is in its place: the file is needed no more."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        good = 0
        with self.path.open("rb") as handle:
            for line in handle:
                try:
                    row = json.loads(line)
                except ValueError:
                    break
                good += len(line)
                if row["made_by"] == self.made_by:
                    completions = tuple(Completion(**found) for found in row["completions"])
                    verdicts = tuple(Verdict(**found) for found in row["verdicts"])
                    self.rows[row["key"]] = Rows(completions, verdicts, row["seconds"])
        with self.path.open("r+b") as handle:
            handle.truncate(good)
