"""Sets to measure over-refusal on, and everyday instructions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lpa_interp.prompt_sets.benchmark import RECALLED, Benchmark, pinned
from lpa_interp.prompt_sets.rows import one_of, one_side, read_rows, text_of, unique_prompts
from lpa_interp.records import Prompt

SPLITS = ("train", "validation", "test")
_ARDITI = ("andyrdt/refusal_direction", "9d852fae1a9121c78b29142de733cb1340770cc3")
_SPLIT_HASHES = {
    "harmful": (
        ("train", "8f5c0eac0efd2a7f99084bbe8d0de2c465e31b1997184783c917969d9de9ece1"),
        ("val", "305f1d1e6dfa6c50a32d24a18ef815f42b5441eb83e6d7767d242107162fd9f4"),
        ("test", "5e12ae102c3791dee083a69ab6269a78e033411c629bc3f66f75d2fde196d9ef"),
    ),
    "harmless": (
        ("train", "86623b1f8a25aa35df153fc97a556dbcebb6a7c881538ae43ee479ca17f2e002"),
        ("val", "772010758e7d771ef4c7e5e4acdfd7598dcece1a6f383f20d382f640913a2a4d"),
        ("test", "1b5930ce5e855ada758b3116ce7c4aaea9b9d05f8cdd77b385511d4c84173b19"),
    ),
}


def parse_xstest(paths: Sequence[Path]) -> list[Prompt]:
    """XSTest: safe prompts that look unsafe, and unsafe contrasts of the same kinds."""
    rows = []
    for place, row in read_rows(paths[0], ("id", "prompt", "type", "label")):
        prompt = Prompt(
            id=f"xstest-{row['id']}",
            text=text_of(place, row, "prompt"),
            harmful=one_of(place, row, "label", ("safe", "unsafe")) == "unsafe",
            category=row["type"],
            source="xstest",
        )
        rows.append((place, prompt))
    return unique_prompts(rows)


def parse_refusal_direction(paths: Sequence[Path], side: str) -> list[Prompt]:
    """One side of the splits that the refusal direction was published with."""
    name = f"refusal_direction-{side}"
    return unique_prompts(
        (
            place,
            Prompt(
                id=f"{name}-{split}-{number:05d}",
                text=text_of(place, row, "instruction"),
                harmful=side == "harmful",
                category=row.get("category") or "none",
                source=name,
                split=split,
            ),
        )
        for path, split in zip(paths, SPLITS, strict=True)
        for number, (place, row) in enumerate(read_rows(path, ("instruction",)), start=1)
    )


def _splits(side: str, licence: str, data: str, note: str = "") -> Benchmark:
    files = tuple(
        pinned(
            f"splits/{side}_{split}.json", sha256, *_ARDITI, f"dataset/splits/{side}_{split}.json"
        )
        for split, sha256 in _SPLIT_HASHES[side]
    )
    return Benchmark(
        name=f"refusal_direction-{side}",
        folder="refusal_direction",
        files=files,
        parse=partial(parse_refusal_direction, side=side),
        source=f"{side} instructions of andyrdt/refusal_direction, from {data}",
        licence=licence,
        citation="Arditi et al. 2024, arXiv 2406.11717",
        splits=SPLITS,
        evaluation_split="test",
        note=note,
    )


HARMLESS_SETS = (
    Benchmark(
        name="xstest",
        files=(
            pinned(
                "xstest_prompts.csv",
                "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
                "paul-rottger/exaggerated-safety",
                "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d",
                "xstest_prompts.csv",
            ),
        ),
        parse=parse_xstest,
        source="XSTest, version 2",
        licence="CC-BY-4.0",
        citation="Röttger et al. 2024, XSTest, arXiv 2308.01263",
    ),
    Benchmark(
        name="or_bench-hard",
        folder="or_bench",
        files=(
            pinned(
                "orbench_hard.json",
                "d47351fdfd5fa48fe85313b7114f25631bbbcb3558b838b1dd488f9bc0afffc2",
                "n8thantran/paper-replication",
                "00ec8d0a45e0251b0cb4624a2dc98e306af979a3",
                "data/orbench_hard.json",
            ),
        ),
        parse=one_side("or_bench-hard", text="prompt", harmful=False, category="label"),
        source="OR-Bench hard-1k, a third party's conversion of bench-llm/or-bench",
        licence=f"CC-BY-4.0 ({RECALLED})",
        citation="Cui et al. 2024, OR-Bench, arXiv 2405.20947",
        note="the conversion has no categories: each prompt's is its label, safe",
    ),
    Benchmark(
        name="alpaca_eval",
        files=(
            pinned(
                "text_davinci_003_outputs.json",
                "af0bc112f08c88bf589bbfe6fc1036806d0a0f6fec9c4d5a4db860f5afe73b4b",
                "tatsu-lab/alpaca_eval",
                "cd543a149df89434d8a54582c0151c0b945c3d20",
                "results/text_davinci_003/model_outputs.json",
            ),
        ),
        parse=one_side("alpaca_eval", text="instruction", harmful=False, category="dataset"),
        source="the instructions of AlpacaEval",
        licence=f"CC-BY-NC-4.0 ({RECALLED}); the repository is Apache-2.0",
        citation="Li et al. 2023, AlpacaEval; Dubois et al. 2024, arXiv 2404.04475",
    ),
    _splits("harmless", "CC-BY-NC-4.0 (Alpaca); the repository is Apache-2.0", "Alpaca"),
    _splits(
        "harmful",
        "that of each source; the repository is Apache-2.0",
        "AdvBench, MaliciousInstruct, TDC 2023, HarmBench, JailbreakBench and StrongREJECT",
        "made of other sets: `lpa overlap` counts what it shares with them",
    ),
)
