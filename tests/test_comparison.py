"""Comparing runs: pairs, refusals, correction, and seeds that are told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpa_interp.compared_runs import read_runs
from lpa_interp.comparison import Comparison, adjusted, compare, model_pairs
from lpa_interp.contrasts import contrasts
from lpa_interp.pair_contrasts import Place, pair_contrasts
from lpa_interp.price import LOSS_JUDGE
from lpa_interp.records import ModelLabel, Verdict
from lpa_interp.stats import holm
from tests.run_folders import ODDS, refusing_run, verdicts, write_run


def _pair_names(found: Comparison) -> list[str]:
    rows = found.contrasts
    pairs = [f"{r.first_run}.{r.first_model}>{r.second_run}.{r.second_model}" for r in rows]
    return list(dict.fromkeys(pairs))


def _full(model: ModelLabel, shift: float) -> list[Verdict]:
    """Verdicts of every built-in judge, with a planted rise of refusal on the harmful side."""
    generator = np.random.default_rng(0)
    rows: list[Verdict] = []
    for harmful in (True, False):
        odds = generator.normal(2.0 if harmful else -2.0, 1.0, 25)
        odds += shift * harmful * generator.random(25)
        rows += verdicts([float(v > 2.2) for v in odds], model, harmful=harmful)
        rows += verdicts(odds.tolist(), model, judge=ODDS, harmful=harmful)
        rows += verdicts((-odds).tolist(), model, judge="yes/no log-odds", harmful=harmful)
    losses = generator.normal(3.0, 0.3, 12) + 0.01 * shift * generator.random(12)
    return rows + verdicts(losses.tolist(), model, "text", LOSS_JUDGE, harmful=False)


def test_one_run_is_compared_with_its_base_as_the_evaluation_does(tmp_path: Path) -> None:
    base, lpa = _full("base", 0.0), _full("lpa", 1.0)
    (run,) = read_runs([write_run(tmp_path / "a", base + lpa)])
    rows = compare([run]).contrasts
    expected = contrasts(base, lpa, 0)
    key = {(r.measure, r.side): r for r in rows}
    assert len(rows) == len(expected)
    for contrast in expected:
        found = key[contrast.measure, contrast.side]
        assert (found.difference, found.low, found.high, found.p_value, found.n) == pytest.approx(
            (contrast.difference, contrast.low, contrast.high, contrast.p_value, contrast.n)
        )
        assert found.method == contrast.method


def test_studies_are_paired_seed_by_seed_and_seeds_never_with_each_other(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / f"{method}{seed}", 0.2, rate, seed=seed,
                     settings={"method": method})
        for method, rate in (("lpa", 0.8), ("sft", 0.4))
        for seed in (0, 1)
    ]  # fmt: skip
    assert _pair_names(compare(read_runs(made))) == [
        "lpa0.base>lpa0.lpa",
        "lpa1.base>lpa1.lpa",
        "sft0.base>sft0.lpa",
        "sft1.base>sft1.lpa",
        "lpa0.lpa>sft0.lpa",
        "lpa1.lpa>sft1.lpa",
    ]


def test_studies_without_a_seed_in_common_are_paired_each_with_each(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "a", 0.2, 0.8, seed=0),
        refusing_run(tmp_path / "b", 0.2, 0.8, seed=1),
        refusing_run(tmp_path / "c", 0.2, 0.4, seed=7, settings={"method": "sft"}),
    ]
    between = [pair for pair in model_pairs(read_runs(made)) if pair[0].run != pair[1].run]
    assert [(a.run.label, b.run.label) for a, b in between] == [("a", "c"), ("b", "c")]


def test_seeds_are_a_spread_and_their_intervals_stay_those_of_their_prompts(
    tmp_path: Path,
) -> None:
    rates = (0.5, 0.7, 0.9)
    made = [refusing_run(tmp_path / f"r{s}", 0.2, rate, seed=s) for s, rate in enumerate(rates)]
    found = compare(read_runs(made))
    spreads = {(row.model, row.side): row for row in found.spreads}
    trained = spreads["lpa", "harmful"]
    assert (trained.n_seeds, trained.low, trained.high) == (3, 0.5, 0.9)
    assert trained.sd == pytest.approx(0.2) and trained.mean == pytest.approx(0.7)
    assert spreads["base", "harmful"].sd == pytest.approx(0.0, abs=1e-12)
    alone = compare(read_runs(made[:1]))
    assert alone.spreads == () and set(alone.values) < set(found.values)
    assert {row.n for row in found.values} == {40}


def test_a_planted_difference_between_runs_is_found_and_none_is_not(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "sft", 0.2, 0.48, n=100, settings={"method": "sft"}),
        refusing_run(tmp_path / "lpa", 0.2, 0.8, n=100, settings={"method": "lpa"}),
    ]
    rows = compare(read_runs(made)).contrasts
    between = {row.side: row for row in rows if row.first_run != row.second_run}
    harmful, harmless = between["harmful"], between["harmless"]
    # 52 errors of SFT against 20 of LPA on the same prompts: the ratio of the paper.
    assert harmful.error_ratio == pytest.approx(2.6) and harmful.difference == pytest.approx(0.32)
    assert harmful.ratio_low is not None and harmful.ratio_low > 1
    assert harmful.p_adjusted is not None and harmful.p_adjusted < 1e-6
    assert harmless.difference == 0.0 and harmless.p_adjusted == 1.0
    assert harmless.error_ratio == 1.0


def test_holm_covers_all_benchmarks_and_pairs_of_a_measure_and_side(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    made = [
        refusing_run(tmp_path / "a", 0.2, 0.3, benchmarks=names),
        refusing_run(tmp_path / "b", 0.2, 0.4, benchmarks=names, settings={"method": "sft"}),
    ]
    rows = [row for row in compare(read_runs(made)).contrasts if row.side == "harmful"]
    assert len(rows) == 9 and {row.n_tests for row in rows} == {9}
    expected = holm([row.p_value or 0.0 for row in rows]).tolist()
    assert [row.p_adjusted for row in rows] == pytest.approx(expected)
    other = [replace(row, judge="another") for row in rows[:1]]
    assert [row.n_tests for row in adjusted([*rows, *other])] == [9] * 9 + [1]


def test_runs_on_other_prompts_get_no_paired_statement_and_one_line(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "a", 0.2, 0.8, n=40, benchmarks=("requests", "jbb")),
        refusing_run(tmp_path / "b", 0.2, 0.4, n=30, benchmarks=("requests", "jbb"),
                     settings={"method": "sft"}),
    ]  # fmt: skip
    found = compare(read_runs(made))
    assert all(row.first_run == row.second_run for row in found.contrasts)
    expected = "a (lpa) and b (lpa): no paired statement on requests, jbb: not the same prompts"
    assert found.notes.count(expected) == 1
    assert len(found.values) == 16


def test_the_same_ids_with_other_texts_are_other_prompts(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "a", 0.2, 0.8),
        refusing_run(tmp_path / "b", 0.2, 0.4, settings={"method": "sft"},
                     hashes={"requests": "other"}),
    ]  # fmt: skip
    rows, refused = pair_contrasts(*(Place(run, "lpa") for run in read_runs(made)))
    assert rows == [] and len(refused) == 1 and "not the same prompts" in refused[0]


def test_perplexities_of_different_models_are_not_compared(tmp_path: Path) -> None:
    made = [
        write_run(tmp_path / "a", _full("base", 0) + _full("lpa", 1)),
        write_run(tmp_path / "b", _full("base", 0) + _full("lpa", 2), model="other",
                  settings={"method": "sft"}),
    ]  # fmt: skip
    rows, refused = pair_contrasts(*(Place(run, "lpa") for run in read_runs(made)))
    assert "perplexity" not in {row.measure for row in rows}
    assert len(rows) == 7 and len(refused) == 1
    assert "on text: perplexities of different models" in refused[0]


def test_undecided_scores_and_verdicts_are_carried_along(tmp_path: Path) -> None:
    base = verdicts([None, None, None], "base")
    lpa = verdicts([1.0, 0.0, 1.0], "lpa")
    found = compare(read_runs([write_run(tmp_path / "a", base + lpa)]))
    assert {row.n_undecided for row in found.values} == {0, 3}
    (row,) = found.contrasts
    assert row.difference is None and row.p_adjusted is None and row.n == 0
    assert row.n_left_out == 3 and row.n_tests == 0


def test_a_run_without_verdicts_still_shows_its_values(tmp_path: Path) -> None:
    run = refusing_run(tmp_path / "a", 0.2, 0.8)
    (run / "behaviour" / "verdicts.jsonl").unlink()
    found = compare(read_runs([run]))
    assert found.contrasts == () and len(found.values) == 4
