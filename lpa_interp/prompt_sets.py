"""The prompt sets themselves: pinned files and how their rows become prompts.

`lpa_interp.benchmarks` finds the files and loads the sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpa_interp.errors import InputError
from lpa_interp.records import Prompt
from lpa_interp.tables import read_csv


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
    """

    name: str
    files: tuple[BenchmarkFile, ...]
    parse: Callable[[Sequence[Path]], list[Prompt]]
    source: str
    licence: str
    citation: str
    splits: tuple[str, ...] = ()
    evaluation_split: str | None = None


def _unique(prompts: Sequence[Prompt], path: Path) -> list[Prompt]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError(path, f"id {prompt.id!r} occurs twice", "each id once")
        seen.add(prompt.id)
    return list(prompts)


def _parse_requests(paths: Sequence[Path]) -> list[Prompt]:
    prompts = []
    columns = ("id", "category", "split", "harmful", "harmless")
    for place, row in read_csv(paths[0], columns):
        if row["split"] not in _REQUEST_SPLITS:
            allowed = ", ".join(_REQUEST_SPLITS)
            raise InputError(place, f"column 'split': {row['split']!r} is unknown", allowed)
        for side in ("harmful", "harmless"):
            prompt = Prompt(
                id=f"{row['id']}-{side}",
                text=row[side],
                harmful=side == "harmful",
                category=row["category"],
                source="requests",
                split=row["split"],
                pair=row["id"],
            )
            prompts.append(prompt)
    return _unique(prompts, paths[0])


def _parse_jailbreakbench(paths: Sequence[Path]) -> list[Prompt]:
    prompts = []
    for path, side in zip(paths, ("harmful", "harmless"), strict=True):
        for _, row in read_csv(path, ("Index", "Goal", "Target", "Category")):
            prompt = Prompt(
                id=f"jbb-{int(row['Index']):03d}-{side}",
                text=row["Goal"],
                harmful=side == "harmful",
                category=row["Category"],
                source="jailbreakbench",
                pair=f"jbb-{int(row['Index']):03d}",
                target=row["Target"],
            )
            prompts.append(prompt)
    return _unique(prompts, paths[0])


def _parse_advbench(paths: Sequence[Path]) -> list[Prompt]:
    return [
        Prompt(
            id=f"advbench-{number:03d}",
            text=row["goal"],
            harmful=True,
            category="harmful_behaviors",
            source="advbench",
            target=row["target"],
        )
        for number, (_, row) in enumerate(read_csv(paths[0], ("goal", "target")))
    ]


_RAW = "https://raw.githubusercontent.com/"
_JBB = f"{_RAW}AnthonyRonning/promptfoo-workshop/f7ba70256f082d67f857b6a76f962f58acbefc8a/"
_ADVBENCH = f"{_RAW}andyrdt/refusal_direction/9d852fae1a9121c78b29142de733cb1340770cc3/"
_REQUEST_SPLITS = ("organism", "validation", "test")

BENCHMARKS: dict[str, Benchmark] = {
    "requests": Benchmark(
        name="requests",
        files=(BenchmarkFile("requests.csv"),),
        parse=_parse_requests,
        source="shipped with lpa_interp; matched harmful and harmless requests",
        licence="MIT",
        citation="written for this project",
        splits=_REQUEST_SPLITS,
        evaluation_split="test",
    ),
    "jailbreakbench": Benchmark(
        name="jailbreakbench",
        files=(
            BenchmarkFile(
                "harmful-behaviors.csv",
                "4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
                f"{_JBB}harmful-behaviors.csv",
            ),
            BenchmarkFile(
                "benign-behaviors.csv",
                "3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
                f"{_JBB}benign-behaviors.csv",
            ),
        ),
        parse=_parse_jailbreakbench,
        source="JBB-Behaviors, a mirror of JailbreakBench/JBB-Behaviors on Hugging Face",
        licence="MIT (as recalled from the public release; check before redistributing)",
        citation="Chao et al. 2024, JailbreakBench, arXiv 2404.01318",
    ),
    "advbench": Benchmark(
        name="advbench",
        files=(
            BenchmarkFile(
                "harmful_behaviors.csv",
                "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
                f"{_ADVBENCH}dataset/raw/advbench.csv",
            ),
        ),
        parse=_parse_advbench,
        source="AdvBench harmful behaviours, a mirror of llm-attacks/llm-attacks",
        licence="MIT (as recalled from the public release; check before redistributing)",
        citation="Zou et al. 2023, arXiv 2307.15043",
    ),
}
