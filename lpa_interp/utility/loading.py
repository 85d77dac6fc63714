"""Finding the files of tasks, reading their items, and sampling them.

Files are read from ``LPA_DATA_DIR``, then from the cache, and are downloaded only when asked
for; their bytes are checked every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpa_interp.benchmarks import locate
from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import Benchmark
from lpa_interp.records import Prompt
from lpa_interp.utility.task import Item, Task
from lpa_interp.utility.tasks import TASKS


def find_task(name: str) -> Task:
    """The task of a name. Reads no file.

    Raises:
        InputError: The name is unknown.
    """
    if name not in TASKS:
        raise InputError(f"task {name!r}", "unknown name", ", ".join(TASKS))
    return TASKS[name]


def load_task(
    name: str, limit: int | None = None, seed: int = 0, download: bool = False
) -> list[Item]:
    """The items of a task, or a sample of them, in the order of its files.

    Args:
        name: A name from `TASKS`.
        limit: Items at most; None takes all.
        seed: Of the sample that ``limit`` takes, see `sample_items`.
        download: Fetch a file that is not on this machine.

    Raises:
        InputError: The name is unknown, a file is not here and ``download`` is off, a file
            differs from the pinned sha256, or ``limit`` is less than 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"task {name}", f"limit {limit} is not allowed", "1 or more")
    task = find_task(name)
    items = task.read(task_files(task, download))
    return items if limit is None else sample_items(items, limit, seed)


def task_files(task: Task, download: bool = False) -> list[Path]:
    """The checked files of a task, in its order.

    Raises:
        InputError: A file is not here and ``download`` is off, or differs from the pinned one.
    """
    home = Benchmark(
        name=task.name,
        files=task.files,
        parse=_no_prompts,
        source=task.source,
        licence=task.licence,
        citation=task.citation,
        folder=task.folder,
    )
    return [locate(home, file, download) for file in task.files]


def sample_items(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """A simple random sample that is the same wherever and for whatever model it is drawn.

    Items are ordered by the SHA-256 of seed and id, and the first ``limit`` are taken, in their
    own order. So neighbours in a file (MMLU's subjects lie together) are as likely as any
    others, and a smaller sample is a part of every larger one.
    """

    def rank(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}:{item.id}".encode()).digest()

    chosen = {item.id for item in sorted(items, key=rank)[:limit]}
    return [item for item in items if item.id in chosen]


def list_tasks(names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a task: name, judges, prompt, source, licence, citation, note, n, available, reason.

    ``n`` counts the items and is None for a task whose files are not on this machine; ``reason``
    then says which.

    Raises:
        InputError: A name is unknown.
    """
    return [_listed(find_task(name)) for name in names or TASKS]


def _listed(task: Task) -> dict[str, Any]:
    row: dict[str, Any] = {"name": task.name, "judges": list(task.judges), "prompt": task.prompt}
    row |= {"source": task.source, "licence": task.licence, "citation": task.citation}
    row |= {"note": task.note, "n": None}
    try:
        return row | {"n": len(load_task(task.name)), "available": True, "reason": ""}
    except InputError as error:
        return row | {"available": False, "reason": str(error)}


def _no_prompts(paths: Sequence[Path]) -> list[Prompt]:
    raise NotImplementedError("a task has items, not prompts")
