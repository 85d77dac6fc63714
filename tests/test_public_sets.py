"""The public sets of ``LPA_DATA_DIR``: every row of every prompt file is counted in a set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lpa_interp.benchmarks import list_benchmarks, load_benchmark, load_text
from lpa_interp.tables import read_csv

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        "LPA_DATA_DIR" not in os.environ, reason="LPA_DATA_DIR is not set: no public data here"
    ),
]


def test_public_sets_have_their_published_sizes() -> None:
    sizes = {
        "advbench": (520, 0),
        "jailbreakbench": (100, 100),
        "strongreject": (313, 0),
        "do_not_answer": (939, 0),
        "harmbench": (159, 0),
        "harmbench-validation": (41, 0),
        "xstest": (200, 250),
        "or_bench-hard": (0, 1319),
        "alpaca_eval": (0, 805),
    }
    for row in list_benchmarks(list(sizes)):
        assert row["available"], row["reason"]
        assert tuple(row["sides"].values()) == sizes[row["name"]], row["name"]
    for name in ("advbench", "jailbreakbench", "harmbench", "harmbench-copyright"):
        assert all(prompt.target for prompt in load_benchmark(name))
    assert load_text()[0] == "wikitext2"


ROLES = ("harm_eval", "overrefusal_eval", "harmless_eval", "personality_train")
ROLES += ("refusal_direction_split", "refusal_direction_eval")

PARTS = {
    "harmbench/harmbench_behaviors_text_test.csv": [
        (f"harmbench{part}", "test") for part in ("", "-contextual", "-copyright")
    ],
    "harmbench/harmbench_behaviors_text_val.csv": [
        (f"harmbench{part}", "validation") for part in ("", "-contextual", "-copyright")
    ],
    "harmbench/harmbench_behaviors_polite.csv": [
        (f"harmbench-polite{part}", split)
        for part in ("", "-contextual", "-copyright")
        for split in ("test", "validation")
    ],
    **{
        f"refusal_direction/splits/{side}_{short}.json": [(f"refusal_direction-{side}", split)]
        for side in ("harmful", "harmless")
        for short, split in (("train", "train"), ("val", "validation"), ("test", "test"))
    },
}
"""Files whose rows are dealt out to sets and splits; of all others each side is a file."""

NOT_A_SET = {
    "xstest/xstest_v2_prompts.csv": "the 450 prompts of xstest_prompts.csv without labels",
    "lpa_personality/dataset/D18e/benign_trait.csv": "byte for byte D12",
    "lpa_personality/dataset/D18e/harmful_trait.csv": "byte for byte D12",
    "refusal_direction/processed/advbench.json": "advbench without targets",
    "refusal_direction/processed/harmbench_test.json": "the standard rows of harmbench, test",
    "refusal_direction/processed/harmbench_val.json": "the standard rows of harmbench, validation",
    "refusal_direction/processed/jailbreakbench.json": "the harmful side of jailbreakbench",
    "refusal_direction/processed/strongreject.json": "strongreject",
}


def _manifest() -> dict[str, dict[str, Any]]:
    path = Path(os.environ["LPA_DATA_DIR"]) / "MANIFEST.json"
    if not path.is_file():
        pytest.skip("LPA_DATA_DIR holds no MANIFEST.json")
    return {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))}


def test_the_listing_counts_every_row_of_every_prompt_file_of_the_data_folder() -> None:
    listed = {row["name"]: row for row in list_benchmarks()}
    by_file = {file["name"]: row for row in listed.values() for file in row["files"]}
    for name, entry in _manifest().items():
        if entry["role"] not in ROLES or name in NOT_A_SET:
            continue
        if name in PARTS:
            counts = [listed[part]["counts"][split] for part, split in PARTS[name]]
            found = sum(sum(sides.values()) for sides in counts)
        else:
            row = by_file[name]
            side = "harmful" if Path(name).name.startswith("harmful") else "harmless"
            # A file of its own holds both sides; where there are two, each holds one.
            found = row["n"] if len(row["files"]) == 1 else row["sides"][side]
        assert found == entry["rows"], name


def test_files_that_are_no_set_of_their_own_hold_what_a_set_holds() -> None:
    folder = Path(os.environ["LPA_DATA_DIR"])
    processed = {"advbench": "advbench", "strongreject": "strongreject"}
    processed |= {"jailbreakbench": "jailbreakbench", "harmbench_test": "harmbench"}
    for file, name in {**processed, "harmbench_val": "harmbench-validation"}.items():
        rows = json.loads((folder / f"refusal_direction/processed/{file}.json").read_text())
        texts = {row["instruction"].strip() for row in rows}
        assert texts == {p.text.strip() for p in load_benchmark(name) if p.harmful}, file
    older = read_csv(folder / "xstest" / "xstest_v2_prompts.csv", ("prompt",))
    assert {row["prompt"] for _, row in older} == {p.text for p in load_benchmark("xstest")}
    manifest = _manifest()
    for side in ("benign", "harmful"):
        hashes = {
            manifest[f"lpa_personality/dataset/{part}/{side}_trait.csv"]["sha256"]
            for part in ("D12", "D18e")
        }
        assert len(hashes) == 1


def test_pinned_files_are_those_of_the_manifest() -> None:
    manifest = _manifest()
    for row in list_benchmarks():
        for file in row["files"]:
            if file["url"] is None:
                continue
            entry = manifest[file["name"]]
            assert file["sha256"] == entry["sha256"]
            place = f"{entry['repo']}/{entry['commit']}/{entry['upstream_path']}"
            assert file["url"] == f"https://raw.githubusercontent.com/{place}"


def test_a_polite_behaviour_has_the_target_of_the_one_it_rewords() -> None:
    plain = {p.id.removeprefix("harmbench-"): p for p in load_benchmark("harmbench", "all")}
    for prompt in load_benchmark("harmbench-polite", "all"):
        twin = plain[prompt.id.removeprefix("harmbench-polite-")]
        assert (prompt.target, prompt.split) == (twin.target, twin.split)
        assert prompt.text != twin.text
