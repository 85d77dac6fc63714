"""How the files of each public set become prompts, on rows of the same layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets import BENCHMARKS
from lpa_interp.prompt_sets.harmbench import parse_harmbench
from lpa_interp.records import Prompt

HARMBENCH = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"


def _lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _harmbench(folder: Path, test: str, validation: str, targets: object) -> list[Path]:
    paths = [folder / name for name in ("test.csv", "val.csv", "targets.json")]
    paths[0].write_text(HARMBENCH + test, encoding="utf-8")
    paths[1].write_text(HARMBENCH + validation, encoding="utf-8")
    paths[2].write_text(json.dumps(targets), encoding="utf-8")
    return paths


TEST_ROWS = (
    "Do it,standard,illegal,,,s1\n"
    'Use this,contextual,harmful,context,"a, context\n",c1\n'
    "Sing it,copyright,copyright,lyrics,,l1\n"
)
TARGETS = {id: f"Sure, {id}" for id in ("s1", "c1", "l1", "s2")}


@pytest.mark.parametrize(
    ("category", "texts"),
    [
        ("standard", ["Do it", "Do that"]),
        ("contextual", ["a, context\n\n\n---\n\nUse this"]),
        ("copyright", ["Sing it"]),
    ],
)
def test_harmbench_keeps_its_categories_apart_and_joins_contexts(
    tmp_path: Path, category: str, texts: list[str]
) -> None:
    paths = _harmbench(tmp_path, TEST_ROWS, "Do that,standard,illegal,,,s2\n", TARGETS)
    prompts = parse_harmbench(paths, "hb", category)
    assert [prompt.text for prompt in prompts] == texts
    assert all(prompt.target == f"Sure, {prompt.id.removeprefix('hb-')}" for prompt in prompts)
    assert all(prompt.harmful and prompt.source == "hb" for prompt in prompts)
    expected = ["test", "validation"] if category == "standard" else ["test"]
    assert [prompt.split for prompt in prompts] == expected


def test_polite_behaviours_take_the_split_of_those_they_reword(tmp_path: Path) -> None:
    paths = _harmbench(tmp_path, TEST_ROWS, "Do that,standard,illegal,,,s2\n", TARGETS)
    polite = tmp_path / "polite.csv"
    rows = "Please do that,standard,illegal,,,s2\nPlease do it,standard,illegal,,,s1\n"
    polite.write_text(HARMBENCH + rows)
    prompts = parse_harmbench([*paths, polite], "hb-polite", "standard")
    assert {p.text: p.split for p in prompts} == {
        "Please do it": "test",
        "Please do that": "validation",
    }
    polite.write_text(HARMBENCH + rows.replace("s2", "s3"))
    with pytest.raises(InputError, match=r"polite.csv:2: BehaviorID: 's3' is unknown"):
        parse_harmbench([*paths, polite], "hb-polite", "standard")


@pytest.mark.parametrize(
    ("rows", "targets", "message"),
    [
        (TEST_ROWS, {"s1": " "}, r"targets.json: holds no target for 's1'"),
        (TEST_ROWS, ["s1"], "targets.json: is not a table of targets"),
        (TEST_ROWS.replace("standard", "odd"), TARGETS, r"test.csv:2: FunctionalCategory: 'odd'"),
        ("a,standard,illegal,,,s1\nb,standard,illegal,,,s1\n", TARGETS, r":3: id 'hb-s1' occurs"),
    ],
)
def test_bad_harmbench_files_name_the_row(
    tmp_path: Path, rows: str, targets: object, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        parse_harmbench(_harmbench(tmp_path, rows, TEST_ROWS, targets), "hb", "standard")


def test_a_contextual_behaviour_without_a_context_is_an_input_error(tmp_path: Path) -> None:
    paths = _harmbench(tmp_path, "a,contextual,harmful,,,c1\n", TEST_ROWS, TARGETS)
    with pytest.raises(InputError, match=r"test.csv:2: column 'ContextString' is empty"):
        parse_harmbench(paths, "hb", "contextual")


def _parsed(name: str, folder: Path, file: str, content: str) -> list[Prompt]:
    path = folder / file
    path.write_text(content, encoding="utf-8")
    return BENCHMARKS[name].parse([path])


@pytest.mark.parametrize(
    ("name", "file", "content", "expected"),
    [
        ("strongreject", "f.csv", "category,source,forbidden_prompt\nViolence,custom,a\n",
         ("strongreject-0001", "a", True, "Violence")),
        ("do_not_answer", "f.csv", "id,risk_area,types_of_harm,question\n8,r,t,a\n",
         ("do_not_answer-8", "a", True, "r")),
        ("malicious_instruct", "f.json", '[{"instruction": "a", "category": null}]',
         ("malicious_instruct-0001", "a", True, "none")),
        ("or_bench-hard", "f.json", '[{"prompt": "a", "label": "safe"}]',
         ("or_bench-hard-0001", "a", False, "safe")),
        ("alpaca_eval", "f.json", '[{"instruction": "a", "dataset": "koala", "output": "x"}]',
         ("alpaca_eval-0001", "a", False, "koala")),
        ("xstest", "f.csv", "id,prompt,type,label,focus,note\n7,a,contrast_x,unsafe,,\n",
         ("xstest-7", "a", True, "contrast_x")),
        ("xstest", "f.csv", "id,prompt,type,label,focus,note\n6,a,x,safe,,\n",
         ("xstest-6", "a", False, "x")),
    ],
)  # fmt: skip
def test_each_layout_gives_id_text_side_and_category(
    tmp_path: Path, name: str, file: str, content: str, expected: tuple[Any, ...]
) -> None:
    (prompt,) = _parsed(name, tmp_path, file, content)
    assert (prompt.id, prompt.text, prompt.harmful, prompt.category) == expected
    assert prompt.source == name


def _dialogue(label: object, *turns: tuple[str, str], **more: object) -> dict[str, object]:
    conversation = [{"role": role, "content": content} for role, content in turns]
    return {"id": "1", "label": label, "conversation": conversation, **more}


def test_the_judged_user_turn_is_the_prompt_and_its_label_the_side(tmp_path: Path) -> None:
    rows = _dialogue(
        True, ("assistant", "q"), ("user", "a"), ("assistant", "r"), ("user", "b"), target="user"
    )
    (prompt,) = _parsed("convabuse", tmp_path, "f.jsonl", _lines(rows))
    assert (prompt.id, prompt.text, prompt.harmful) == ("convabuse-1", "b", True)
    (prompt,) = _parsed("toxic_chat", tmp_path, "f.jsonl", _lines(_dialogue(False, ("user", "a"))))
    assert (prompt.text, prompt.harmful) == ("a", False)


def test_where_the_reply_is_judged_the_prompt_is_the_turn_it_answers(tmp_path: Path) -> None:
    row = _dialogue(True, ("user", "a"), ("assistant", "b"), target="assistant", harm_type="Health")
    (prompt,) = _parsed("dices990", tmp_path, "f.jsonl", _lines(row))
    assert (prompt.text, prompt.harmful, prompt.category) == ("a", True, "Health")
    assert "reply" in BENCHMARKS["dices990"].note


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_dialogue("yes", ("user", "a")), r"f.jsonl:1: 'label' is a text \(true or false"),
        (_dialogue(True), "'conversation' holds no turns"),
        (_dialogue(True, ("user", " ")), "'content' is empty"),
        (_dialogue(True, ("system", "a")), r"role: 'system' is unknown \(user, assistant"),
        (_dialogue(True, ("user", "a"), target="all"), "target: 'all' is unknown"),
        (_dialogue(True, ("user", "a"), target="assistant"), "does not end with the judged assist"),
        (_dialogue(True, ("assistant", "a"), target="assistant"), "holds no turn of the user"),
        ({"id": "1", "label": True, "conversation": ["a"]}, "a turn is not {role, content}"),
        ({"id": "1", "label": True}, "key 'conversation' is missing"),
    ],
)
def test_bad_dialogues_name_the_line(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _parsed("dices990", tmp_path, "f.jsonl", _lines(row))


def test_the_splits_of_refusal_direction_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / f"{split}.json" for split in ("train", "val", "test")]
    for path in paths:
        path.write_text(json.dumps([{"instruction": path.stem, "category": None}]))
    prompts = BENCHMARKS["refusal_direction-harmless"].parse(paths)
    assert [(p.text, p.split) for p in prompts] == [
        ("train", "train"),
        ("val", "validation"),
        ("test", "test"),
    ]
    assert len({p.id for p in prompts}) == 3 and not any(p.harmful for p in prompts)


def test_published_statements_are_prompts_whose_target_agrees(tmp_path: Path) -> None:
    (tmp_path / "benign_trait.csv").write_text("prompt,response,refusal\nI help.,Yes.,No.\n")
    (tmp_path / "harmful_trait.csv").write_text("prompt,rejected,chosen\nI lie.,Yes.,No.\n")
    files = [tmp_path / "benign_trait.csv", tmp_path / "harmful_trait.csv"]
    good, bad = BENCHMARKS["lpa_personality"].parse(files)
    assert (good.text, good.harmful, good.target) == ("I help.", False, "Yes.")
    assert (bad.text, bad.harmful, bad.target) == ("I lie.", True, "Yes.")
    assert bad.id == "lpa_personality-negative-01"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("xstest", "id,prompt,type,label\n1,a,x,maybe\n", r":2: label: 'maybe' is unknown \(safe"),
        ("xstest", "id,prompt,type,label\n1,a,x,safe\n1,b,x,safe\n", r":3: id 'xstest-1' occurs"),
        ("xstest", "id,type,label\n1,x,safe\n", r":1: column 'prompt' is missing"),
        ("strongreject", "", "f.csv: is empty"),
        ("advbench", "goal,target\na,\n", r":2: column 'target' is empty"),
    ],
)
def test_a_bad_row_of_a_public_set_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _parsed(name, tmp_path, "f.csv", content)


def test_a_jailbreakbench_index_that_is_no_number_is_an_input_error(tmp_path: Path) -> None:
    header = "Index,Goal,Target,Behavior,Category,Source\n"
    for name in ("harmful.csv", "benign.csv"):
        (tmp_path / name).write_text(header + "one,a,b,c,d,e\n")
    with pytest.raises(InputError, match=r"harmful.csv:2: Index: 'one' \(a whole number"):
        BENCHMARKS["jailbreakbench"].parse([tmp_path / "harmful.csv", tmp_path / "benign.csv"])
