"""`lpa judge`: re-judging keeps what other judges said, loses nothing, generates nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.judged_run import prompts_hash
from lpa_interp.benchmarks import load_benchmark
from lpa_interp.evaluation import redact
from lpa_interp.judging import judge_completions
from lpa_interp.records import (
    Agreement,
    Completion,
    Contrast,
    Judgement,
    ModelLabel,
    Prompt,
    Score,
    Verdict,
)
from lpa_interp.runs import read_rows, write_rows
from lpa_interp.text_judges import keyword_judge
from tests.chat_server import Answer, Respond, chat_server, said
from tests.completed import ANSWER, REFUSAL, completion
from tests.run_folders import ODDS, verdicts, write_run

GRADES = '{"refusal": 0, "convincing": 5, "specific": 5}'
N = 3
"""Prompts per side."""


def _prompts() -> list[Prompt]:
    return load_benchmark("requests", limit=N, seed=0)


def _run(folder: Path, hashes: dict[str, str] | None = None) -> Path:
    """A run with whole completions: the base answers everything, lpa refuses what is harmful."""
    made: list[Completion] = []
    models: tuple[ModelLabel, ...] = ("base", "lpa")
    for model in models:
        for prompt in _prompts():
            text = REFUSAL if model == "lpa" and prompt.harmful else ANSWER
            made.append(completion(text, prompt.id, prompt.harmful, model, "requests"))
    rows = judge_completions(made, {}, keyword_judge())
    rows += [row for model in models for row in verdicts([1.0, 2.0, 0.5], model, judge=ODDS)]
    known = {"requests": prompts_hash(_prompts())} if hashes is None else hashes
    settings = {"evaluate": {"benchmarks": ["requests"], "limit": N}}
    run = write_run(folder / "run", rows, settings, hashes=known)
    write_rows(run / "behaviour" / "completions.jsonl", made)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return _run(tmp_path)


def _rows(run: Path, name: str, record: type) -> list[Any]:
    return read_rows(run / "behaviour" / f"{name}.jsonl", record)


def _judges(run: Path) -> list[str]:
    return list(dict.fromkeys(row.judge for row in _rows(run, "verdicts", Verdict)))


def _ask(run: Path, respond: Respond, *more: str) -> tuple[int, list[str]]:
    """Judges with the rubric against a server; gives the exit code and the requests it saw."""
    with chat_server(respond) as server:
        words = ["judge", str(run), "--judge", "strongreject", "--judge-model", "gpt", "--quiet"]
        code = main([*words, "--endpoint", server.url, "--workers", "1", *more])
        return code, [body["messages"][0]["content"] for body in server.bodies]


def test_a_new_judge_adds_its_verdicts_and_scores_and_touches_no_others(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _rows(run, "verdicts", Verdict), _rows(run, "scores", Score)
    assert main(["judge", str(run), "--judge", "harm_terms", "--quiet"]) == 0
    after = _rows(run, "verdicts", Verdict), _rows(run, "scores", Score)
    assert after[0][: len(before[0])] == before[0] and after[1][: len(before[1])] == before[1]
    scores = {(s.model, s.side): s for s in after[1] if s.judge == "harm_terms (weak)"}
    assert {s.measure for s in scores.values()} == {"harm_rate"}
    assert scores["base", "harmful"].value == 1.0 and scores["lpa", "harmful"].value == 0.0
    shown = capsys.readouterr().out
    assert "n_undecided: 0 of 12 answers" in shown and "harm_terms (weak)" in shown
    assert main(["judge", str(run), "--judge", "harm_terms", "--quiet"]) == 0
    assert (_rows(run, "verdicts", Verdict), _rows(run, "scores", Score)) == after


def test_judging_again_replaces_a_judges_rows_where_they_stood(run: Path) -> None:
    folder = run / "behaviour"
    right = _rows(run, "verdicts", Verdict), _rows(run, "scores", Score)
    wrong = [replace(v, value=None) if v.judge != ODDS else v for v in right[0]]
    write_rows(folder / "verdicts.jsonl", wrong)
    assert main(["judge", str(run), "--judge", "keyword", "--quiet"]) == 0
    assert _rows(run, "verdicts", Verdict) == right[0]
    assert sorted(_rows(run, "scores", Score), key=str) == sorted(right[1], key=str)
    contrasts = {(c.side, c.measure): c for c in _rows(run, "contrasts", Contrast)}
    assert contrasts["harmful", "refusal_rate"].difference == 1.0
    assert contrasts["harmless", "refusal_rate"].difference == 0.0


def test_redacted_completions_stop_it_with_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "behaviour" / "completions.jsonl"
    write_rows(path, [redact(row) for row in read_rows(path, Completion)])
    before = (run / "behaviour" / "verdicts.jsonl").read_bytes()
    assert main(["judge", str(run), "--judge", "harm_terms", "--quiet"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "evaluate.store_completions = true" in line
    assert (run / "behaviour" / "verdicts.jsonl").read_bytes() == before


def test_an_endpoint_judges_harmful_requests_with_the_request_itself(run: Path) -> None:
    code, asked = _ask(run, lambda *_: said(GRADES))
    assert code == 0 and len(asked) == 2 * N
    harmful = [prompt.text for prompt in _prompts() if prompt.harmful]
    assert all(any(text in question for text in harmful) for question in asked)
    scores = [s for s in _rows(run, "scores", Score) if s.measure == "harm_score"]
    assert {(s.model, s.side, s.value, s.n) for s in scores} == {
        ("base", "harmful", 1.0, N),
        ("lpa", "harmful", 1.0, N),
    }
    assert _judges(run)[-1] == "strongreject rubric: gpt"


def test_failures_are_marked_and_asked_for_again_and_nothing_else_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def flaky(number: int, _: str) -> Answer:
        return said(GRADES) if number < 4 else Answer(json.dumps({"error": {"code": "x"}}), 400)

    code, asked = _ask(run, flaky)
    assert code == 1 and len(asked) == 6
    shown = capsys.readouterr().out
    assert "n_undecided: 2 of 6" in shown and "2: status 400 (x)" in shown
    assert "2 got no answer: the same command asks for them again" in shown
    (marked,) = [s for s in _rows(run, "scores", Score) if s.n_undecided]
    assert (marked.model, marked.n, marked.n_undecided) == ("lpa", 1, 2)
    code, asked = _ask(run, lambda *_: said(GRADES))
    assert code == 0 and len(asked) == 2
    assert not [s for s in _rows(run, "scores", Score) if s.n_undecided]
    assert len(_rows(run, "judgements", Judgement)) == 8
    assert _ask(run, lambda *_: said(GRADES)) == (0, [])
    assert len(_ask(run, lambda *_: said(GRADES), "--again")[1]) == 6
    assert len(_ask(run, lambda *_: said(GRADES), "--request-options", '{"seed": 1}')[1]) == 6


def test_what_was_answered_before_a_stop_is_kept(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def revoked(number: int, _: str) -> Answer:
        return said(GRADES) if number < 3 else Answer(status=401)

    assert _ask(run, revoked)[0] == 2
    assert "status 401" in capsys.readouterr().err
    assert len(_rows(run, "judgements", Judgement)) == 3
    assert "strongreject rubric: gpt" not in _judges(run)
    path = run / "behaviour" / "judgements.jsonl"
    path.write_text(path.read_text() + '{"model": "ba')  # killed while writing
    assert len(_ask(run, lambda *_: said(GRADES))[1]) == 3
    assert "strongreject rubric: gpt" in _judges(run)


def test_completions_made_again_are_judged_again(run: Path) -> None:
    _ask(run, lambda *_: said(GRADES))
    path = run / "behaviour" / "completions.jsonl"
    rows = read_rows(path, Completion)
    new = [replace(row, sha256="0" * 64) if row.model == "lpa" else row for row in rows]
    write_rows(path, new)
    assert len(_ask(run, lambda *_: said(GRADES))[1]) == N


def test_prompts_that_changed_since_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path, {"requests": "another"})
    assert _ask(run, lambda *_: said(GRADES)) == (2, [])
    assert "is not what it was when the run was measured" in capsys.readouterr().err


def _labels(run: Path, name: str, labels: Sequence[str]) -> Path:
    rows = [row for row in read_rows(run / "behaviour" / "completions.jsonl", Completion)]
    lines = [
        f"{row.prompt_id},{row.model},{row.attack},{label}"
        for row, label in zip(rows, labels, strict=False)
    ]
    path = run.parent / f"{name}.csv"
    path.write_text("\n".join(["prompt_id,model,attack,label", *lines]) + "\n")
    return path


def test_people_and_judges_are_compared_on_what_both_judged(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in read_rows(run / "behaviour" / "completions.jsonl", Completion)]
    labels = ["refusal" if row.text == REFUSAL else "answer" for row in rows]
    path = _labels(run, "alice", [*labels[:-2], "unclear"])
    assert main(["judge", str(run), "--judge", f"human:{path}", "--quiet"]) == 0
    assert main(["judge", str(run), "--agreement", "keyword", "human"]) == 0
    (row,) = _rows(run, "agreement", Agreement)
    assert (row.first, row.second) == ("keyword (weak)", "human refusal labels: alice")
    assert row.kappa == 1.0 and row.n == 10 and row.n_undecided_second == 2
    assert row.low is not None and row.low < 1.0 and row.n_prompts == 6
    assert main(["judge", str(run), "--agreement", "human", "keyword"]) == 0
    assert len(_rows(run, "agreement", Agreement)) == 1
    assert "Wilson of the raw agreement" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--judge", "nonesuch"], "no such judge (keyword"),
        (["--judge", "classifier:"], "names no model"),
        (["--judge", "human:nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--judge", "strongreject"], "--endpoint or LPA_JUDGE_URL"),
        (["--judge", "strongreject", "--endpoint", "http://x"], "--judge-model"),
        (["--judge", "strongreject", "--endpoint", "http://x", "--judge-model", "m",
          "--key-name", "NO_SUCH_KEY"], "the environment has no NO_SUCH_KEY"),
        (["--judge", "strongreject", "--endpoint", "x", "--judge-model", "m"], "http://"),
        (["--judge", "strongreject", "--endpoint", "http://x", "--judge-model", "m",
          "--request-options", "[1]"], "not a JSON object"),
        (["--agreement", "keyword", "zebra"], "has judged nothing here (keyword"),
        (["--agreement", "keyword", "keyword"], "same judge twice"),
        (["--agreement", "keyword", "first"], "a threshold"),
        ([], "one of the arguments --judge --agreement is required"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    run: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(run), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and told in captured.err


def test_judges_of_different_things_are_not_compared(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["judge", str(run), "--judge", "harm_terms", "--quiet"])
    assert main(["judge", str(run), "--agreement", "keyword", "harm_terms"]) == 2
    assert "different things: keyword (weak) of refusal" in capsys.readouterr().err


def test_a_folder_without_completions_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(tmp_path), "--judge", "keyword"]) == 2
    assert "run lpa evaluate first" in capsys.readouterr().err


def test_address_model_and_key_can_come_from_the_environment(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server(lambda *_: said(GRADES)) as server:
        monkeypatch.setenv("LPA_JUDGE_URL", server.url)
        monkeypatch.setenv("LPA_JUDGE_MODEL", "local")
        monkeypatch.setenv("LPA_JUDGE_KEY_NAME", "MY_KEY")
        monkeypatch.setenv("MY_KEY", "s3cret\n")
        assert main(["judge", str(run), "--judge", "strongreject"]) == 0
    assert {found["Authorization"] for found in server.headers} == {"Bearer s3cret"}
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out + captured.err
    assert "s3cret" not in "".join(p.read_text() for p in run.rglob("*.json*"))
    assert "6 other completions are not given to it" in captured.err
