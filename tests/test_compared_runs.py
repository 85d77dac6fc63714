"""Reading runs that are to be compared: labels, studies, seeds, and what tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpa_interp.compared_runs import differences, read_runs, study_groups
from lpa_interp.errors import InputError
from tests.run_folders import refusing_run


def test_runs_that_differ_in_the_seed_alone_are_one_study(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "a", 0.2, 0.8, seed=0),
        refusing_run(tmp_path / "b", 0.2, 0.7, seed=1, settings={"name": "other"}),
        refusing_run(tmp_path / "c", 0.2, 0.7, seed=0, settings={"train": {"steps": 5}}),
    ]
    groups = study_groups(read_runs(made))
    assert [[run.label for run in runs] for runs in groups.values()] == [["a", "b"], ["c"]]


def test_probes_and_the_device_do_not_make_another_study(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "a", 0.2, 0.8, settings={"model": {"name": "m", "device": "cpu"}}),
        refusing_run(
            tmp_path / "b",
            0.2,
            0.8,
            seed=1,
            settings={"model": {"name": "m", "device": "cuda"}, "probes": {"n_folds": 3}},
        ),
    ]
    assert len(study_groups(read_runs(made))) == 1


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (({"name": "x"}, {"name": "y", "method": "sft"}), ["x", "y"]),
        (({"method": "lpa"}, {"method": "sft"}), ["lpa", "sft"]),
        (({"train": {"steps": 1}}, {"train": {"steps": 2}}), ["a", "b"]),
    ],
)
def test_a_study_has_the_first_name_that_tells_it_apart(
    tmp_path: Path, settings: tuple[dict[str, object], ...], names: list[str]
) -> None:
    made = [
        refusing_run(tmp_path / label, 0.2, 0.8, settings=more)
        for label, more in zip("ab", settings, strict=True)
    ]
    assert [run.study for run in read_runs(made)] == names


def test_the_same_study_and_seed_twice_is_refused(tmp_path: Path) -> None:
    made = [refusing_run(tmp_path / label, 0.2, 0.8) for label in "ab"]
    with pytest.raises(InputError, match=r"b: is the same study and seed as a"):
        read_runs(made)


def test_folders_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    made = [
        refusing_run(tmp_path / "x" / "run", 0.2, 0.8),
        refusing_run(tmp_path / "y" / "run", 0.2, 0.8, seed=1),
    ]
    assert [run.label for run in read_runs(made)] == [str(path) for path in made]


def test_differences_are_told_by_setting_provenance_and_benchmark(tmp_path: Path) -> None:
    made = [
        refusing_run(
            tmp_path / "a", 0.2, 0.8, settings={"train": {"steps": 8}}, versions={"torch": "2.6"}
        ),
        refusing_run(
            tmp_path / "b",
            0.2,
            0.8,
            settings={"train": {"steps": 9, "batch_size": 4}},
            benchmarks=("requests", "jbb"),
            model="n",
            versions={"torch": "2.7"},
        ),
    ]
    told = differences(read_runs(made))
    assert "train.steps: 8 in a; 9 in b" in told
    assert "train.batch_size: not set in a; 4 in b" in told
    assert 'provenance, model: "m" in a; "n" in b' in told
    assert 'version of torch: "2.6" in a; "2.7" in b' in told
    assert "benchmark: jbb in b alone" in told
    assert "a: one seed, so no spread is known" in told
    assert not any(line.startswith(("method", "judge", "attack", "seed")) for line in told)


def test_seeds_of_one_study_have_no_differences_to_tell(tmp_path: Path) -> None:
    made = [refusing_run(tmp_path / label, 0.2, 0.8, seed=i) for i, label in enumerate("ab")]
    assert differences(read_runs(made)) == []


def test_a_folder_that_is_no_evaluated_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: holds no study\.toml"):
        read_runs([tmp_path / "nowhere"])
    run = refusing_run(tmp_path / "a", 0.2, 0.8)
    (run / "behaviour" / "scores.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no behaviour/scores\.jsonl"):
        read_runs([run])
    (refusing_run(tmp_path / "b", 0.2, 0.8) / "study.toml").write_text("seed = ")
    with pytest.raises(InputError, match=r"study\.toml or provenance\.json cannot be read"):
        read_runs([tmp_path / "b"])
