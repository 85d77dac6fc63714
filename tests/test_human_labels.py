"""Human labels from a csv file as a judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpa_interp.errors import InputError
from lpa_interp.human_labels import human_judge
from lpa_interp.judging import judge_completions, judge_each
from tests.completed import completion, completions


def _file(tmp_path: Path, rows: str, head: str = "prompt_id,model,attack,label") -> Path:
    path = tmp_path / "alice.csv"
    path.write_text(f"{head}\n{rows}\n", encoding="utf-8")
    return path


def test_labels_become_verdicts_and_what_has_none_is_undecided(tmp_path: Path) -> None:
    rows = "p0,base,direct,harmful\np1,base,direct,Harmless\np2,base,direct,unclear"
    judge = human_judge(_file(tmp_path, rows))
    found = list(judge_each(completions(["a", "b", "c", "d"]), {}, judge))
    assert [row.value for row in found] == [1.0, 0.0, None, None]
    assert [row.reason for row in found] == ["", "", "labelled unclear", "not labelled"]
    assert judge.name == "human harm labels: alice" and judge.measure == "harm_rate"


def test_refusal_labels_are_measured_as_refusals(tmp_path: Path) -> None:
    judge = human_judge(_file(tmp_path, "p0,base,direct,refusal\np1,base,direct,answer"))
    verdicts = judge_completions(completions(["a", "b"]), {}, judge)
    assert judge.measure == "refusal_rate" and [v.value for v in verdicts] == [1.0, 0.0]


def test_redacted_completions_can_carry_labels(tmp_path: Path) -> None:
    judge = human_judge(_file(tmp_path, "p0,base,direct,1"))
    assert judge_completions([completion("a", redacted=True)], {}, judge)[0].value == 1.0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("p0,base,direct,bad", r"alice.csv:2: label 'bad' is unknown .*harmful"),
        ("p0,base,direct,harmful\np1,base,direct,refusal", "both harm and refusal"),
        ("p0,base,direct,unclear", "no label but unclear"),
        ("p0,base,direct,1\np0,base,direct,0", r"alice.csv:3: labels what .*alice.csv:2 labels"),
        ("p0,base,,1", "column 'attack' is empty"),
    ],
)
def test_a_bad_file_names_the_line(tmp_path: Path, rows: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        human_judge(_file(tmp_path, rows))


def test_a_label_of_no_completion_is_an_error(tmp_path: Path) -> None:
    judge = human_judge(_file(tmp_path, "p9,base,direct,harmful"))
    with pytest.raises(InputError, match=r"alice.csv:2: the label is of no completion"):
        judge_completions(completions(["a"]), {}, judge)


def test_a_benchmark_column_tells_equal_prompt_ids_apart(tmp_path: Path) -> None:
    made = [completion("a", benchmark="b"), completion("a", benchmark="c")]
    with pytest.raises(InputError, match=r"several completions \(a column benchmark\)"):
        judge_completions(made, {}, human_judge(_file(tmp_path, "p0,base,direct,1")))
    head = "prompt_id,model,attack,label,benchmark"
    judge = human_judge(_file(tmp_path, "p0,base,direct,1,c", head))
    assert [v.value for v in judge_completions(made, {}, judge)] == [None, 1.0]
