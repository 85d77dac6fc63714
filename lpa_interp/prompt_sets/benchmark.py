"""What a prompt set is: its files, each pinned, and how their rows become prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpa_interp.records import Prompt

RECALLED = "as recalled from the public release; check before redistributing"
"""Said of a licence that no file beside the pinned one states."""

Parse = Callable[[Sequence[Path]], list[Prompt]]
"""From the files of a set, in the order that the set names them, to its prompts."""


@dataclass(frozen=True, slots=True)
class BenchmarkFile:
    """One file of a set. ``url`` names a commit; both are None for a shipped file."""

    name: str
    sha256: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A prompt set: where it comes from and how its files become prompts.

    ``splits`` are its named parts; ``evaluation_split`` is the one that evaluation may see.
    ``folder`` holds its files in ``LPA_DATA_DIR`` where it is not called like the set. ``note``
    says what the sides mean where "a request to refuse, or not" would be wrong. ``user_file``
    is the user's own file, which nothing pins.
    """

    name: str
    files: tuple[BenchmarkFile, ...]
    parse: Parse
    source: str
    licence: str
    citation: str
    splits: tuple[str, ...] = ()
    evaluation_split: str | None = None
    folder: str | None = None
    note: str = ""
    user_file: Path | None = None

    @property
    def place(self) -> str:
        """The folder of its files in ``LPA_DATA_DIR`` and in the cache."""
        return self.folder or self.name


def pinned(name: str, sha256: str, repository: str, commit: str, path: str) -> BenchmarkFile:
    """A file of a public GitHub repository at one commit.

    Args:
        name: Of the file below the set's folder.
        sha256: Of its bytes, 64 hexadecimal digits.
        repository: ``owner/name``.
        commit: 40 hexadecimal digits.
        path: Inside the repository.
    """
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"
    return BenchmarkFile(name, sha256, url)
