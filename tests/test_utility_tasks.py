"""Utility tasks: prompts word for word, files pinned, samples that ignore the order of files."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lpa_interp.errors import InputError
from lpa_interp.utility import TASKS, Item, find_task, list_tasks, load_task
from lpa_interp.utility.accuracy import judged
from lpa_interp.utility.likelihood import Likelihood
from lpa_interp.utility.loading import sample_items
from lpa_interp.utility.mmlu import read_mmlu, read_mmlu_with_shots
from lpa_interp.utility.task import (
    GREEDY_JUDGE,
    HARNESS_METRICS,
    LIKELIHOOD_JUDGE,
    MEASURES,
    PER_CHARACTER_JUDGE,
    TARGET_LOSS_JUDGE,
)

needs_data = pytest.mark.skipif(
    "LPA_DATA_DIR" not in os.environ, reason="LPA_DATA_DIR is not set: no public data here"
)
SIZES = {
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "piqa": 1838,
    "hellaswag": 1000,
    "winogrande": 1267,
    "lambada_openai": 5153,
    "boolq": 3270,
    "mmlu": 14042,
    "mmlu-5shot": 14042,
}


def _read(name: str, rows: Any, folder: Path) -> list[Item]:
    path = folder / ("rows.json" if isinstance(rows, dict) else "rows.jsonl")
    text = json.dumps(rows) if isinstance(rows, dict) else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    return find_task(name).read([path])


def test_every_file_is_pinned_to_a_commit_and_a_hash() -> None:
    assert list(TASKS) == list(SIZES)
    for task in TASKS.values():
        assert task.judges and {*task.judges} <= MEASURES.keys() == HARNESS_METRICS.keys()
        assert len({file.name for file in task.files}) == len(task.files)
        for file in task.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "")
            assert re.match(r"https://raw\.githubusercontent\.com/.+/[0-9a-f]{40}/", file.url or "")
    assert [len(TASKS[name].files) for name in ("mmlu", "mmlu-5shot")] == [57, 114]


def test_arc_prompts_are_those_of_the_harness(tmp_path: Path) -> None:
    row = {"query": "Question: Is it wet?", "choices": ["yes, it is", "no"], "gold": 1}
    (item,) = _read("arc_easy", [row], tmp_path)
    assert item.pairs == (
        ("Question: Is it wet?\nAnswer:", " yes, it is"),
        ("Question: Is it wet?\nAnswer:", " no"),
    )
    assert (item.id, item.gold) == ("arc_easy-00001", 1)


def test_piqa_prompts_are_those_of_the_harness(tmp_path: Path) -> None:
    row = {"query": "Question: ice box\n", "choices": ["add water", "add soda"], "gold": 0}
    (item,) = _read("piqa", [row], tmp_path)
    assert item.pairs[1] == ("Question: ice box\nAnswer:", " add soda")


def test_boolq_prompts_are_those_of_the_harness(tmp_path: Path) -> None:
    query = "Passage: Ice is\nfrozen water.\nQuestion: is ice water?"
    (item,) = _read("boolq", [{"query": query, "choices": ["no", "yes"], "gold": 1}], tmp_path)
    context = "Ice is\nfrozen water.\nQuestion: is ice water?\nAnswer:"
    assert item.pairs == ((context, " no"), (context, " yes"))


def test_winogrande_scores_the_ending_after_each_name(tmp_path: Path) -> None:
    row = {"context_options": ["so Ann", "so Bea"], "continuation": "won.", "gold": 1}
    (item,) = _read("winogrande", [row], tmp_path)
    assert item.pairs == (("so Ann", " won."), ("so Bea", " won."))


def test_lambada_has_one_target(tmp_path: Path) -> None:
    (item,) = _read("lambada_openai", [{"context": "I saw a", "continuation": "sign"}], tmp_path)
    assert item.pairs == (("I saw a", " sign"),) and item.gold == 0


def test_hellaswag_is_cleaned_as_the_harness_cleans_it(tmp_path: Path) -> None:
    answers = {
        "A": "[title] Enter  it. [step] Go",
        "B": "He waits. [title] Sit ",
        "C": "c",
        "D": "d",
    }
    row = {"question": "[header] How to [title] Begin. ", "choices": answers, "answer": "B"}
    items = _read("hellaswag", {"dev": [], "test": [row]}, tmp_path)
    assert items[0].contexts == (" How to. Begin.",)
    assert items[0].choices == (" Enter it. Go", "He waits.. Sit", "c", "d") and items[0].gold == 1


QUESTIONS = [("Is a ring ?", "Yes", "No", "Maybe", "It depends", i % 4) for i in range(5)]
PROMPT = "Is a ring ?\nA. Yes\nB. No\nC. Maybe\nD. It depends\nAnswer:"
LEAD = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"


def _mmlu_files(folder: Path, n_dev: int = 5) -> list[Path]:
    test, dev = folder / "abstract_algebra_test.csv", folder / "abstract_algebra_dev.csv"
    lines = [",".join([*map(str, q[:5]), "ABCD"[q[5]]]) for q in QUESTIONS]
    test.write_text("\n".join(lines))
    dev.write_text("\n".join(lines[:n_dev]))
    return [test, dev]


def test_mmlu_prompts_are_those_of_the_harness(tmp_path: Path) -> None:
    items = read_mmlu(_mmlu_files(tmp_path)[:1])
    assert items[1].pairs == tuple((LEAD + PROMPT, f" {letter}") for letter in "ABCD")
    assert [item.gold for item in items] == [0, 1, 2, 3, 0]
    assert (items[1].id, items[1].category) == ("mmlu-abstract_algebra-0002", "abstract_algebra")


def test_mmlu_examples_stand_before_the_question_with_their_letters(tmp_path: Path) -> None:
    items = read_mmlu_with_shots(_mmlu_files(tmp_path))
    worked = "".join(f"{PROMPT} {letter}\n\n" for letter in "ABCDA")
    assert items[2].contexts == (LEAD + worked + PROMPT,)
    with pytest.raises(InputError, match="holds 4 questions"):
        read_mmlu_with_shots(_mmlu_files(tmp_path, n_dev=4))


def test_both_layouts_of_mmlu_give_the_same_items(tmp_path: Path) -> None:
    original = read_mmlu(_mmlu_files(tmp_path)[:1])
    converted = tmp_path / "converted" / "abstract_algebra_test.csv"
    converted.parent.mkdir()
    lines = [",".join(map(str, q)) for q in QUESTIONS]
    converted.write_text("\n".join(["question,choice0,choice1,choice2,choice3,answer", *lines]))
    assert read_mmlu([converted]) == original


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("arc_easy", {"query": "Question: a", "choices": ["b", "c"], "gold": 2}, "'gold' is 2"),
        ("arc_easy", {"query": "Question: a", "choices": ["b", "c"], "gold": True}, "'gold' is T"),
        ("arc_easy", {"query": "Question: a", "choices": ["b"], "gold": 0}, "two texts or more"),
        ("arc_easy", {"query": "Question: a", "choices": ["b", " "], "gold": 0}, "is empty"),
        ("arc_easy", {"query": "Question: a", "gold": 0}, "'choices' is missing"),
        ("piqa", {"query": "Question: a", "choices": ["b", "c"], "gold": 0}, "another layout"),
        ("boolq", {"query": "Text: a", "choices": ["b", "c"], "gold": 0}, "another layout"),
        ("lambada_openai", {"context": "a", "continuation": 3}, "is a number"),
    ],
)
def test_bad_rows_are_named_with_their_line(
    name: str, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"rows.jsonl:1: .*{message}"):
        _read(name, [row], tmp_path)


@pytest.mark.parametrize("line", ["q,a,b,c,d,E", "q,a,b,c,d", "q,a,b,,d,A", "q,a,b,c,d,0"])
def test_bad_rows_of_mmlu_are_named_with_their_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "anatomy_test.csv"
    path.write_text(f"q,a,b,c,d,A\n{line}\n")
    with pytest.raises(InputError, match=r"anatomy_test.csv:2: "):
        read_mmlu([path])


def test_an_absent_task_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LPA_DATA_DIR", raising=False)
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path))
    with pytest.raises(InputError, match="set LPA_DATA_DIR to a folder that holds llm_foundry/"):
        load_task("piqa")
    (row,) = list_tasks(["piqa"])
    assert row["n"] is None and not row["available"] and "piqa.jsonl" in row["reason"]


def test_unknown_tasks_and_limits_are_input_errors() -> None:
    with pytest.raises(InputError, match=r"'arc': unknown name \(arc_easy, "):
        load_task("arc")
    with pytest.raises(InputError, match="limit 0 is not allowed"):
        load_task("piqa", limit=0)


def _items(n: int) -> list[Item]:
    return [Item(id=f"x-{i}", contexts=("a",), choices=("b", "c"), gold=0) for i in range(n)]


def test_a_sample_is_a_part_of_every_larger_one() -> None:
    items = _items(1000)
    small, large = sample_items(items, 50, 3), sample_items(items, 200, 3)
    assert len(small) == 50 and len(large) == 200
    assert {item.id for item in small} < {item.id for item in large}
    assert sample_items(items, 2000, 3) == items
    assert sample_items(items, 50, 4) != small


def test_a_sample_does_not_follow_the_order_of_the_file() -> None:
    items = _items(4000)
    sample = sample_items(items, 400, 0)
    tenths = Counter(int(item.id.removeprefix("x-")) // 400 for item in sample)
    # 40 expected in each tenth, standard deviation 5.7.
    assert len(tenths) == 10 and all(18 <= count <= 62 for count in tenths.values())
    shuffled = random.Random(0).sample(items, len(items))
    assert {item.id for item in sample_items(shuffled, 400, 0)} == {item.id for item in sample}


def test_judges_follow_their_formulas() -> None:
    item = Item(id="x", contexts=("q",), choices=("no", "certainly", "maybé"), gold=1)
    found = [Likelihood(-4.0, True, 1), Likelihood(-9.0, False, 2), Likelihood(-7.0, False, 2)]
    assert judged(LIKELIHOOD_JUDGE, item, found) == 0.0
    assert judged(PER_CHARACTER_JUDGE, item, found) == 1.0  # -2, -1 and -1.4 a character
    assert judged(GREEDY_JUDGE, item, found) == 0.0
    assert judged(TARGET_LOSS_JUDGE, item, found) == 9.0
    with pytest.raises(ValueError, match="unknown judge"):
        judged("taste", item, found)


def test_of_equally_likely_choices_the_first_is_taken() -> None:
    for gold in (0, 1):
        item = Item(id="x", contexts=("q",), choices=("no", "ye"), gold=gold)
        found = [Likelihood(-4.0, False, 1), Likelihood(-4.0, False, 1)]
        assert judged(LIKELIHOOD_JUDGE, item, found) == float(gold == 0)
        assert judged(PER_CHARACTER_JUDGE, item, found) == float(gold == 0)


def test_an_item_has_one_context_or_one_choice() -> None:
    with pytest.raises(ValueError, match="one context, or one choice"):
        Item(id="x", contexts=("a", "b"), choices=("c", "d"), gold=0)
    with pytest.raises(ValueError, match="gold is 1, of 1"):
        Item(id="x", contexts=("a",), choices=("c",), gold=1)


def test_tasks_are_listed_without_torch() -> None:
    code = (
        "import sys, lpa_interp.utility as u; u.list_tasks(['piqa']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@needs_data
@pytest.mark.data
def test_public_tasks_have_their_published_sizes() -> None:
    assert {row["name"]: row["n"] for row in list_tasks()} == SIZES


@needs_data
@pytest.mark.data
def test_ids_are_unique_and_both_kinds_of_mmlu_have_the_same_items() -> None:
    for name in TASKS:
        items = load_task(name)
        assert len({item.id for item in items}) == len(items)
    plain, shots = load_task("mmlu", 60, 1), load_task("mmlu-5shot", 60, 1)
    assert [(item.id, item.gold) for item in plain] == [(item.id, item.gold) for item in shots]
    assert len({item.category for item in plain}) > 25
    for one, other in zip(plain, shots, strict=True):
        question = one.contexts[0].split("\n\n", 1)[1]
        assert other.contexts[0].endswith("\n\n" + question)
        assert other.contexts[0].count("\nAnswer:") >= 6
