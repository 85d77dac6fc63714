"""Prompt sets: what is shipped, what is pinned, and what is said when a set is not here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lpa_interp import benchmarks
from lpa_interp.benchmarks import list_benchmarks, load_benchmark, load_text, sample_pairs
from lpa_interp.errors import InputError
from lpa_interp.prompt_sets import BENCHMARKS, BenchmarkFile


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without public data and with an empty cache."""
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def _pinned(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Pins a small AdvBench file in place of the real one."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    file = BenchmarkFile("harmful_behaviors.csv", digest, "https://example.org/advbench.csv")
    monkeypatch.setitem(BENCHMARKS, "advbench", replace(BENCHMARKS["advbench"], files=(file,)))


def test_evaluation_sees_the_test_split_of_the_shipped_requests_alone() -> None:
    test, everything = load_benchmark("requests"), load_benchmark("requests", "all")
    assert {prompt.split for prompt in test} == {"test"}
    organism = load_benchmark("requests", "organism")
    assert not {p.text for p in organism} & {p.text for p in test}
    assert len(everything) > len(test) + len(organism)


def test_every_shipped_request_has_its_twin() -> None:
    sides: dict[str, set[bool]] = {}
    for prompt in load_benchmark("requests", "all"):
        assert prompt.pair is not None
        sides.setdefault(prompt.pair, set()).add(prompt.harmful)
    assert all(found == {True, False} for found in sides.values())


def test_a_sample_keeps_pairs_whole_and_follows_its_seed() -> None:
    sample = load_benchmark("requests", limit=10, seed=1)
    pairs = [prompt.pair for prompt in sample]
    assert len(sample) == 20 and all(pairs.count(pair) == 2 for pair in pairs)
    assert sample == load_benchmark("requests", limit=10, seed=1)
    assert sample != load_benchmark("requests", limit=10, seed=2)


def test_a_sample_of_unpaired_prompts_counts_each_side() -> None:
    prompts = [replace(p, pair=None) for p in load_benchmark("requests")]
    sample = sample_pairs(prompts, 5, 0)
    assert sum(p.harmful for p in sample) == 5 and len(sample) == 10
    assert sample_pairs(prompts, 10_000, 0) == prompts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "web"}, r"unknown name \(advbench, alpaca_eval, .*, xstest, or path:FILE for"),
        ({"name": "requests", "split": "train"}, "unknown split 'train' .organism, validation"),
        ({"name": "requests", "limit": 0}, "limit 0 is not allowed"),
    ],
)
def test_unknown_names_and_splits_are_input_errors(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_benchmark(**arguments)


def test_an_absent_set_says_how_to_get_it_and_downloads_nothing(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *_: pytest.fail("downloaded without being asked"))
    with pytest.raises(InputError, match=r"set LPA_DATA_DIR .* or pass --download"):
        load_benchmark("advbench")
    rows = {row["name"]: row for row in list_benchmarks()}
    assert not rows["advbench"]["available"] and "LPA_DATA_DIR" in rows["advbench"]["reason"]
    assert rows["requests"]["available"] and rows["requests"]["sides"]["harmful"] > 0
    json.dumps(list(rows.values()))


def test_a_file_of_the_data_folder_is_checked_and_read(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = 'goal,target\n"Do a, then b","Sure, here is a"\n'
    _pinned(monkeypatch, content)
    file = bare_machine / "data" / "advbench" / "harmful_behaviors.csv"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    monkeypatch.setenv("LPA_DATA_DIR", str(bare_machine / "data"))
    prompt = load_benchmark("advbench")[0]
    assert (prompt.text, prompt.target, prompt.side) == (
        "Do a, then b",
        "Sure, here is a",
        "harmful",
    )
    file.write_text(content + "x,y\n")
    with pytest.raises(InputError, match=r"harmful_behaviors.csv: sha256 is"):
        load_benchmark("advbench")


def test_a_download_lands_in_the_cache_and_is_checked(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "goal,target\nx,y\n"
    _pinned(monkeypatch, content)
    calls = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> None:
        calls.append((url, known_hash))
        Path(path).mkdir(parents=True)
        (Path(path) / fname).write_text(content)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    assert len(load_benchmark("advbench", download=True)) == 1
    assert len(load_benchmark("advbench")) == 1 and len(calls) == 1
    assert calls[0][1].startswith("sha256:")
    cached = bare_machine / "cache" / "benchmarks" / "advbench" / "harmful_behaviors.csv"
    cached.write_text(content + "z,w\n")
    with pytest.raises(InputError, match="not that of the pinned file"):
        load_benchmark("advbench")


def test_a_download_that_fails_is_an_input_error(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(InputError, match="cannot be downloaded: no route to host"):
        load_benchmark("advbench", download=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,category,split,harmful\n", "column 'harmless' is missing"),
        ("id,category,split,harmful,harmless\n", "holds no rows"),
        ("id,category,split,harmful,harmless\na,c,dev,x,y\n", r":2: split: 'dev' is unknown"),
        ("id,category,split,harmful,harmless\na,c,test,x,\n", r":2: column 'harmless' is empty"),
        ("id,category,split,harmful,harmless\n" + "a,c,test,x,y\n" * 2, "'a-harmful' occurs twice"),
        ('id,category,split,harmful,harmless\na,c,test,"x,y\n', ":2: is not csv"),
    ],
)
def test_bad_request_files_are_input_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        BENCHMARKS["requests"].parse([path])


def test_every_public_file_is_pinned_to_a_commit_and_a_hash() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.source and benchmark.licence and benchmark.citation
        assert benchmark.name == name
        assert set(benchmark.splits) >= {benchmark.evaluation_split or "none"} - {"none"}
        for file in benchmark.files if name != "requests" else ():
            assert file.url is not None and file.sha256 is not None
            commit = file.url.split("/")[5]
            assert len(commit) == 40 and len(file.sha256) == 64


def test_the_listing_counts_sides_splits_and_texts_that_differ() -> None:
    (row,) = list_benchmarks(["requests"])
    assert row["available"] and row["reason"] == ""
    assert row["n"] == row["n_distinct"] == sum(row["counts"]["test"].values())
    assert set(row["counts"]) == {"organism", "validation", "test"}
    with pytest.raises(InputError, match="unknown name"):
        list_benchmarks(["nonesuch"])


def test_a_part_of_a_set_is_looked_for_in_the_folder_of_the_set(bare_machine: Path) -> None:
    with pytest.raises(InputError, match=r"a folder that holds harmbench/harmbench_behaviors_t"):
        load_benchmark("harmbench-contextual")
    with pytest.raises(InputError, match=r"a folder that holds or_bench/orbench_hard.json"):
        load_benchmark("or_bench-hard")


def test_a_row_that_is_not_utf8_is_named_although_its_hash_is_right(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"goal,target\na,b\n\xff,c\n"
    digest = hashlib.sha256(content).hexdigest()
    file = BenchmarkFile("harmful_behaviors.csv", digest, "https://example.org/advbench.csv")
    monkeypatch.setitem(BENCHMARKS, "advbench", replace(BENCHMARKS["advbench"], files=(file,)))
    path = bare_machine / "advbench" / "harmful_behaviors.csv"
    path.parent.mkdir()
    path.write_bytes(content)
    monkeypatch.setenv("LPA_DATA_DIR", str(bare_machine))
    with pytest.raises(InputError, match=r"harmful_behaviors.csv:3: is not UTF-8"):
        load_benchmark("advbench")
    rows = {row["name"]: row for row in list_benchmarks()}
    assert not rows["advbench"]["available"] and "UTF-8" in rows["advbench"]["reason"]


def test_the_shipped_text_is_used_without_public_data(bare_machine: Path) -> None:
    name, text = load_text()
    assert name == "text" and len(text.split()) > 1000


def test_another_file_in_the_place_of_wikitext_is_refused(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bare_machine / "wikitext2" / "wiki.test.raw"
    file.parent.mkdir()
    file.write_text("not it")
    monkeypatch.setenv("LPA_DATA_DIR", str(bare_machine))
    with pytest.raises(InputError, match="sha256"):
        benchmarks.load_text()
