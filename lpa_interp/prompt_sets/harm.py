"""Sets of harmful requests, two of them with a harmless twin for each; HarmBench has its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import RECALLED, Benchmark, BenchmarkFile, pinned
from lpa_interp.prompt_sets.rows import one_of, one_side, unique_prompts
from lpa_interp.records import Prompt
from lpa_interp.tables import read_csv

REQUEST_SPLITS = ("organism", "validation", "test")
_JBB = ("AnthonyRonning/promptfoo-workshop", "f7ba70256f082d67f857b6a76f962f58acbefc8a")
_ARDITI = ("andyrdt/refusal_direction", "9d852fae1a9121c78b29142de733cb1340770cc3")
_DO_NOT_ANSWER = ("kunishou/do-not-answer-ja", "1380ff2ff5abad07e8aead79caa9757bb8d9f866")


def parse_requests(paths: Sequence[Path]) -> list[Prompt]:
    """The shipped requests: a harmful and a harmless twin in each row."""
    rows = []
    for place, row in read_csv(paths[0], ("id", "category", "split", "harmful", "harmless")):
        split = one_of(place, row, "split", REQUEST_SPLITS)
        for side in ("harmful", "harmless"):
            prompt = Prompt(
                id=f"{row['id']}-{side}",
                text=row[side],
                harmful=side == "harmful",
                category=row["category"],
                source="requests",
                split=split,
                pair=row["id"],
            )
            rows.append((place, prompt))
    return unique_prompts(rows)


def parse_jailbreakbench(paths: Sequence[Path]) -> list[Prompt]:
    """JailbreakBench's behaviours: a harmful and a benign file, joined by their index."""
    rows = []
    for path, side in zip(paths, ("harmful", "harmless"), strict=True):
        for place, row in read_csv(path, ("Index", "Goal", "Target", "Category")):
            if not row["Index"].isdecimal():
                raise InputError(place, f"Index: {row['Index']!r:.40}", "a whole number")
            pair = f"jbb-{int(row['Index']):03d}"
            prompt = Prompt(
                id=f"{pair}-{side}",
                text=row["Goal"],
                harmful=side == "harmful",
                category=row["Category"],
                source="jailbreakbench",
                pair=pair,
                target=row["Target"],
            )
            rows.append((place, prompt))
    return unique_prompts(rows)


def parse_advbench(paths: Sequence[Path]) -> list[Prompt]:
    """AdvBench's harmful behaviours with their affirmative targets."""
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


HARM_SETS = (
    Benchmark(
        name="requests",
        files=(BenchmarkFile("requests.csv"),),
        parse=parse_requests,
        source="shipped with lpa_interp; matched harmful and harmless requests",
        licence="MIT",
        citation="written for this project",
        splits=REQUEST_SPLITS,
        evaluation_split="test",
    ),
    Benchmark(
        name="jailbreakbench",
        files=(
            pinned(
                "harmful-behaviors.csv",
                "4a8ec6832056b631eb092dccc60d37a61c3d441268268888b3d006288afeffa1",
                *_JBB,
                "harmful-behaviors.csv",
            ),
            pinned(
                "benign-behaviors.csv",
                "3cda234d21a991fa309bbfea4b6d9dae31ccdf8e9d452424b6a983e4fdc33468",
                *_JBB,
                "benign-behaviors.csv",
            ),
        ),
        parse=parse_jailbreakbench,
        source="JBB-Behaviors, a mirror of JailbreakBench/JBB-Behaviors on Hugging Face",
        licence=f"MIT ({RECALLED})",
        citation="Chao et al. 2024, JailbreakBench, arXiv 2404.01318",
    ),
    Benchmark(
        name="advbench",
        files=(
            pinned(
                "harmful_behaviors.csv",
                "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1",
                *_ARDITI,
                "dataset/raw/advbench.csv",
            ),
        ),
        parse=parse_advbench,
        source="AdvBench harmful behaviours, a mirror of llm-attacks/llm-attacks",
        licence=f"MIT ({RECALLED})",
        citation="Zou et al. 2023, arXiv 2307.15043",
    ),
    Benchmark(
        name="strongreject",
        files=(
            pinned(
                "strongreject_dataset.csv",
                "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
                *_ARDITI,
                "dataset/raw/strongreject.csv",
            ),
        ),
        parse=one_side("strongreject", text="forbidden_prompt", harmful=True, category="category"),
        source="StrongREJECT, the full set, a mirror of alexandrasouly/strongreject",
        licence=f"MIT ({RECALLED})",
        citation="Souly et al. 2024, StrongREJECT, arXiv 2402.10260",
    ),
    Benchmark(
        name="do_not_answer",
        files=(
            pinned(
                "do_not_answer_en.csv",
                "06acfa39a06a1b33d1f264ce41b4f7a95812010c594fb733ae4717ee0a4544fc",
                *_DO_NOT_ANSWER,
                "datasets/Instruction/do_not_answer_en.csv",
            ),
        ),
        parse=one_side(
            "do_not_answer", text="question", harmful=True, category="risk_area", id="id"
        ),
        source="Do-Not-Answer in English, a copy of Libr-AI/do-not-answer",
        licence="CC-BY-NC-SA-4.0",
        citation="Wang et al. 2023, Do-Not-Answer, arXiv 2308.13387",
        note="not every question calls for a refusal: some want a correction or a disclaimer",
    ),
    Benchmark(
        name="malicious_instruct",
        folder="refusal_direction",
        files=(
            pinned(
                "processed/malicious_instruct.json",
                "a88fb4ab8958e93fc2c525125eb448e55026018748c0ec1388a296738e2fcacc",
                *_ARDITI,
                "dataset/processed/malicious_instruct.json",
            ),
        ),
        parse=one_side("malicious_instruct", text="instruction", harmful=True),
        source="MaliciousInstruct, a copy in andyrdt/refusal_direction",
        licence="Apache-2.0 (the copy's repository; the original's is not stated there)",
        citation="Huang et al. 2023, arXiv 2310.06987",
    ),
    Benchmark(
        name="tdc2023",
        folder="refusal_direction",
        files=(
            pinned(
                "processed/tdc2023.json",
                "4c9804f5fdf2a006477807a0c225ad438d6a693d7fa7c93097f866b8dc2e89b8",
                *_ARDITI,
                "dataset/processed/tdc2023.json",
            ),
        ),
        parse=one_side("tdc2023", text="instruction", harmful=True),
        source="Trojan Detection Challenge 2023, red teaming track, from andyrdt/refusal_direction",
        licence="Apache-2.0 (the copy's repository; the original's is not stated there)",
        citation="Mazeika et al. 2023, TDC 2023 (LLM edition), NeurIPS competition track",
    ),
)
