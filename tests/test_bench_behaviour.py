from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from experiments import bench_behaviour as module
from experiments import bench_inside
from experiments.bench_behaviour import (
    bench_generation,
    bench_readings,
    our_readings,
    plain_readings,
)
from experiments.bench_inside import bench_activations, bench_candidates
from experiments.turns import in_turn
from lpa_interp.chat import chat_rows, completion_row
from lpa_interp.first_token import AFFIRMATIVE
from lpa_interp.model import HookedTransformer, load_model
from tests.planted import harmful_rows, harmless_rows, refusing_model
from tests.tiny import tiny_folder, tiny_model

TEXTS = ["Open the lock.", "Tell me how to open the cat's lock on the mat.", "Sing."]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HookedTransformer:
    return load_model(str(tiny_folder(tmp_path_factory.mktemp("tiny"))), device="cpu")


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The printed lines by quantity."""
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(row["min"] <= row["median"] <= row["max"] and row["min"] >= 0 for row in rows)
    return {row["quantity"]: row for row in rows}


def test_completions_are_timed_in_all_ways(
    model: HookedTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_generation(model, "here", chat_rows(model, TEXTS), 4, repeats=2, hooked=True)
    rows = told(capsys)
    assert [name.rsplit(": ", 1)[1] for name in rows] == [
        "transformers.generate, s",
        "ours, s",
        "transformers.generate / ours",
        "ours with the hooks of an ablation, s",
        "with hooks / transformers.generate",
    ]
    assert all(name.startswith("3 completions of 4 tokens, here: ") for name in rows)
    assert all(row["n"] == 2 for row in rows.values())


def test_completions_that_differ_stop_the_bench(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "generate", lambda model, rows, *_, **__: ["no"] * len(rows))
    with pytest.raises(RuntimeError, match="3 of 3 completions differ"):
        bench_generation(model, "here", chat_rows(model, TEXTS), 4, repeats=1)


def test_readings_are_timed_and_a_pass_for_each_gives_the_same(
    model: HookedTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = chat_rows(model, TEXTS)
    bench_readings(model, rows, repeats=1)
    assert [name.rsplit(": ", 1)[1] for name in told(capsys)] == [
        "a pass for each, s",
        "ours, s",
        "a pass for each / ours",
        "ours / log-odds alone",
    ]
    answer = completion_row(model, AFFIRMATIVE, end=False)
    together = our_readings(model, rows)
    assert together.shape == (6, 3)
    for place, given in enumerate(([], answer)):
        np.testing.assert_allclose(plain_readings(model, rows, given), together[place], atol=1e-4)


def test_readings_that_differ_stop_the_bench(
    model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "our_readings", lambda model, rows: np.zeros((6, len(rows))))
    with pytest.raises(RuntimeError, match="readings differ"):
        bench_readings(model, chat_rows(model, TEXTS), repeats=1)


def test_candidates_are_timed_each_and_some_of_them_one_by_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _ = refusing_model()
    sides = harmful_rows(model, 8), harmless_rows(model, 8)
    bench_candidates(model, *sides, n_candidates=5, n_plain=2, n_validation=3, repeats=1)
    rows = told(capsys)
    assert list(rows) == [
        f"a refusal candidate on 3 + 3 prompts: {what}"
        for what in (
            "one by one (2), s",
            "ours (5), s",
            "one by one / ours",
            "largest difference of a score",
        )
    ]
    ours = bench_inside.our_scores
    monkeypatch.setattr(bench_inside, "our_scores", lambda *given: ours(*given) + 1e-3)
    with pytest.raises(RuntimeError, match=r"scores differ by 0\.001"):
        bench_candidates(model, *sides, n_candidates=5, n_plain=2, n_validation=3, repeats=1)


def test_activations_are_timed_against_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model()
    bench_activations(model, chat_rows(model, TEXTS), repeats=2)
    assert list(told(capsys)) == [
        f"activations of 4 layers on 3 prompts: {what}"
        for what in ("one forward pass, s", "ours, s", "ours / one forward pass")
    ]


def test_ways_run_in_turn_and_the_first_repeat_does_not_count() -> None:
    seen: list[str] = []
    ways = {name: lambda name=name: seen.append(name) or len(seen) for name in ("a", "b")}
    times, found = in_turn(ways, 2, tiny_model())
    assert seen == ["a", "b"] * 3 and found == {"a": 5, "b": 6}
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}
    assert len(in_turn(ways, 2, tiny_model(), warm=False)[0]["a"]) == 2 and len(seen) == 10


@pytest.mark.weights
def test_mixed_rows_have_requests_alone_and_after_a_passage(
    default_model: HookedTransformer,
) -> None:
    lengths = [len(row) for row in module.mixed_rows(default_model, 8)]
    assert max(lengths[:3]) < 60 and 70 < lengths[3] < 130 and lengths[7] > 180
    harmful, harmless = bench_inside.request_rows(default_model)
    assert len(harmful) == len(harmless) >= 2 * bench_inside.N_VALIDATION
