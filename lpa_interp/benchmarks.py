"""Every prompt set behind one type: found, checked, loaded and sampled.

One set is shipped with the package; the public ones are read from ``LPA_DATA_DIR``, then from
the cache, and are downloaded only when asked for. Their bytes are checked every time. The user's
own file is a set too: ``path:FILE``, see `lpa_interp.prompt_sets.user_file`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets import BENCHMARKS, Benchmark, BenchmarkFile
from lpa_interp.prompt_sets.user_file import is_user_file, user_benchmark
from lpa_interp.records import Prompt
from lpa_interp.runs import file_hash
from lpa_interp.sources import cache_folder
from lpa_interp.tables import data_file, read_text, shipped_file

_WIKITEXT = BenchmarkFile(
    "wiki.test.raw", "4f3e427e4aff23acff917a8a51aeae21bf12832256e26914c8fc250dcef4103c"
)


def load_benchmark(
    name: str,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> list[Prompt]:
    """Loads a prompt set by name.

    Args:
        name: A name from `list_benchmarks`, or ``path:FILE`` for a file of the user's.
        split: A part of a set that has parts, or ``all``. None is the part meant for
            evaluation, so that no one measures on what an organism was trained on.
        limit: Prompts per side; pairs stay together. None takes all.
        seed: Of the sample that ``limit`` takes.
        download: Fetch a public set that is not on this machine.

    Raises:
        InputError: The name or split is unknown, the set is not here and ``download`` is off, a
            file differs from the pinned sha256, or a row is bad.
    """
    benchmark = find_benchmark(name)
    allowed = (*benchmark.splits, "all")
    if split is not None and split not in allowed:
        raise InputError(f"benchmark {name}", f"unknown split {split!r}", ", ".join(allowed))
    if limit is not None and limit < 1:
        raise InputError(f"benchmark {name}", f"limit {limit} is not allowed", "1 or more")
    prompts = every_prompt(benchmark, download)
    prompts = _of_split(prompts, split or benchmark.evaluation_split or "all")
    if not prompts:
        raise InputError(f"benchmark {name}", "holds no prompts of that split", ", ".join(allowed))
    return prompts if limit is None else sample_pairs(prompts, limit, seed)


def find_benchmark(name: str) -> Benchmark:
    """What a name stands for. Reads no file.

    Raises:
        InputError: The name is neither a set's nor a file of the user's.
    """
    if is_user_file(name):
        return user_benchmark(name)
    if name not in BENCHMARKS:
        allowed = f"{', '.join(sorted(BENCHMARKS))}, or path:FILE for your own"
        raise InputError(f"benchmark {name!r}", "unknown name", allowed)
    return BENCHMARKS[name]


def sample_pairs(prompts: Sequence[Prompt], limit: int, seed: int) -> list[Prompt]:
    """A seeded sample of at most ``limit`` prompts per side, in order, with whole pairs."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.pair or prompt.id, []).append(prompt)
    by_sides: dict[frozenset[bool], list[str]] = {}
    for key, group in groups.items():
        by_sides.setdefault(frozenset(prompt.harmful for prompt in group), []).append(key)
    generator = random.Random(seed)
    chosen: set[str] = set()
    for sides in sorted(by_sides, key=sorted):
        keys = by_sides[sides]
        chosen.update(generator.sample(keys, min(limit, len(keys))))
    return [prompt for prompt in prompts if (prompt.pair or prompt.id) in chosen]


def list_benchmarks(names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One row a set, in the order of names.

    A row has ``name``, ``source``, ``licence``, ``citation``, ``note``, ``files`` (name, sha256,
    url), ``splits``, ``available`` and the ``reason`` when not. ``n`` and ``sides`` count the
    prompts of the evaluation split, ``n_distinct`` its texts that differ, and ``counts`` the
    sides of every split (``all`` for a set without splits); all four are None for a set that is
    not on this machine. Rows are never dropped: where ``n_distinct`` is smaller than ``n``,
    intervals that take the prompts as independent are a little too narrow.

    Args:
        names: The sets to list; None lists them all. A user's file is listed where it is named.

    Raises:
        InputError: A name is unknown.
    """
    return [_listed(find_benchmark(name)) for name in names or sorted(BENCHMARKS)]


def _listed(benchmark: Benchmark) -> dict[str, Any]:
    row: dict[str, Any] = {"name": benchmark.name}
    row |= dict.fromkeys(("n", "sides", "n_distinct", "counts"))
    row |= {"splits": list(benchmark.splits), "source": benchmark.source}
    row |= {"licence": benchmark.licence, "citation": benchmark.citation, "note": benchmark.note}
    row["files"] = [
        {
            "name": f"{benchmark.place}/{file.name}",
            "sha256": file.sha256 or file_hash(shipped_file(file.name)),
            "url": file.url,
        }
        for file in benchmark.files
    ]
    try:
        everything = every_prompt(benchmark, download=False)
    except InputError as error:
        return row | {"available": False, "reason": str(error)}
    prompts = _of_split(everything, benchmark.evaluation_split or "all")
    row |= {"n": len(prompts), "sides": _sides(prompts)}
    row["n_distinct"] = len({prompt.text for prompt in prompts})
    row["counts"] = {
        split: _sides(_of_split(everything, split)) for split in benchmark.splits or ("all",)
    }
    return row | {"available": True, "reason": ""}


def _sides(prompts: Sequence[Prompt]) -> dict[str, int]:
    harmful = sum(prompt.harmful for prompt in prompts)
    return {"harmful": harmful, "harmless": len(prompts) - harmful}


def _of_split(prompts: Sequence[Prompt], split: str) -> list[Prompt]:
    return [prompt for prompt in prompts if split in ("all", prompt.split)]


def every_prompt(benchmark: Benchmark, download: bool) -> list[Prompt]:
    """All prompts of a set, of every split.

    Raises:
        InputError: As `locate`, or a file cannot be read as this set.
    """
    if benchmark.user_file is not None:
        return benchmark.parse([benchmark.user_file])
    return benchmark.parse([locate(benchmark, file, download) for file in benchmark.files])


def load_text() -> tuple[str, str]:
    """The name and content of the text for perplexity.

    WikiText-2 (raw, test) where ``LPA_DATA_DIR`` holds it, otherwise the short expository text
    that is shipped. The name tells which, for perplexities of two texts do not compare.

    Raises:
        InputError: The WikiText file is not the one that the name stands for.
    """
    path = data_file("wikitext2", _WIKITEXT.name)
    if path is None:
        return "text", read_text(shipped_file("text.txt"))
    _check(path, _WIKITEXT)
    return "wikitext2", read_text(path).replace("\r\n", "\n")


def locate(benchmark: Benchmark, file: BenchmarkFile, download: bool) -> Path:
    """A file of a set: in ``LPA_DATA_DIR``, the cache, or fetched; its SHA-256 is checked.

    Raises:
        InputError: It is not here and ``download`` is off, or differs from the pinned one.
    """
    if file.url is None:
        return shipped_file(file.name)
    cached = cache_folder() / "benchmarks" / benchmark.place / file.name
    path = data_file(benchmark.place, file.name) or (cached if cached.is_file() else None)
    if path is None and not download:
        raise InputError(
            f"benchmark {benchmark.name}",
            f"{file.name} is not on this machine",
            f"set LPA_DATA_DIR to a folder that holds {benchmark.place}/{file.name}, "
            "or pass --download",
        )
    path = path or _download(file, cached)
    _check(path, file)
    return path


def _download(file: BenchmarkFile, cached: Path) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(file.url, f"sha256:{file.sha256}", cached.name, cached.parent)
    except (OSError, ValueError) as error:
        # requests' errors are OSErrors; pooch reports a wrong hash as a ValueError.
        reason = str(error).strip().splitlines()[0]
        raise InputError(file.url, f"cannot be downloaded: {reason}") from error
    return cached


def _check(path: Path, file: BenchmarkFile) -> None:
    try:
        found = file_hash(path)
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from None
    if found != file.sha256:
        raise InputError(
            path,
            f"sha256 is {found[:12]}..., not that of the pinned file",
            f"{str(file.sha256)[:12]}...; remove the file and fetch it again",
        )
