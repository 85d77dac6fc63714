from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpa_interp.errors import InputError
from lpa_interp.records import ProbeTransfer
from probes.activations import Activations
from probes.transfer import transfer_matrix
from tests.planted import HOOK, one_hook

D_MODEL = 40
TRAIT, OTHER = np.eye(D_MODEL)[:2]


def probe_set(
    seed: int, direction: np.ndarray, strength: float, n_groups: int = 12, name: str | None = None
) -> tuple[Activations, np.ndarray, list[str]]:
    """Facets of three texts that share an offset, their sides apart along a direction."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_groups), 3)
    labels = rng.permutation(np.arange(n_groups) < n_groups // 2)[codes]
    values = rng.standard_normal((n_groups, D_MODEL))[codes]
    values = values + rng.standard_normal((len(codes), D_MODEL))
    values += strength * np.where(labels, 1, -1)[:, None] * direction
    return one_hook(values), labels, [f"{name or seed}/facet{code:02d}" for code in codes]


def matrix(sets: dict[str, Any], **arguments: Any) -> dict[tuple[str, str], ProbeTransfer]:
    settings = {"model": "base", "hook_name": HOOK, "n_permutations": 99, "n_bootstrap": 100}
    return {(row.train, row.test): row for row in transfer_matrix(sets, **settings | arguments)}


def test_sets_that_share_a_direction_transfer_and_others_do_not() -> None:
    cells = matrix(
        {
            "one": probe_set(0, TRAIT, 3.0),
            "two": probe_set(1, TRAIT, 3.0),
            "other": probe_set(2, OTHER, 3.0),
            "opposite": probe_set(3, -TRAIT, 3.0),
        }
    )
    assert len(cells) == 16
    for pair in (("one", "two"), ("two", "one"), ("one", "one"), ("other", "other")):
        assert cells[pair].auroc > 0.9 and cells[pair].p_value <= 0.02
        assert cells[pair].low <= cells[pair].auroc <= cells[pair].high
    for pair in (("one", "other"), ("other", "one"), ("two", "other")):
        assert 0.1 < cells[pair].auroc < 0.9
    assert cells["one", "opposite"].auroc < 0.1 and cells["one", "opposite"].p_value <= 0.02
    row = cells["one", "two"]
    assert (row.n_train, row.n_test, row.n_test_groups, row.n_shared_groups) == (36, 36, 12, 0)
    assert (row.n_folds, cells["one", "one"].n_folds) == (1, 5)


def test_adjusted_p_values_cover_the_cells_off_the_diagonal_only() -> None:
    cells = matrix({str(seed): probe_set(seed, TRAIT, 1.0) for seed in range(3)})
    for (train, test), row in cells.items():
        assert (row.p_adjusted is None) == (train == test)
        assert train == test or row.p_adjusted >= row.p_value


def test_labels_that_mean_nothing_score_at_chance_and_the_tests_keep_their_level() -> None:
    rows = []
    for seed in range(25):
        one, two = (probe_set(2 * seed + i, TRAIT, 0.0) for i in (0, 1))
        rows += matrix(
            {"one": one, "two": two}, n_folds=3, n_permutations=19, n_bootstrap=10
        ).items()
    for kind in (True, False):
        found = [row for (train, test), row in rows if (train == test) is kind]
        values = np.array([row.auroc for row in found])
        assert values.mean() == pytest.approx(0.5, abs=3 * values.std() / np.sqrt(len(found)))
        share = np.mean([row.p_value <= 0.1 for row in found])
        assert share < 0.1 + 3 * np.sqrt(0.09 / len(found))


def test_a_text_is_never_scored_by_a_direction_that_saw_its_group() -> None:
    # Labels mean nothing, but facets differ: a probe that saw them would score high.
    activations, labels, groups = probe_set(5, TRAIT, 0.0, n_groups=30, name="same")
    part = np.flatnonzero(np.isin(groups, sorted(set(groups))[:16]))
    subset = (activations.select(part), labels[part], [groups[index] for index in part])
    whole = (activations, labels, groups)
    renamed = (activations, labels, [f"new {group}" for group in groups])
    cells = matrix({"whole": whole, "part": subset, "leak": renamed}, n_permutations=49)
    assert cells["whole", "leak"].auroc > 0.85
    assert cells["whole", "part"].auroc < 0.75 and cells["part", "whole"].auroc < 0.75
    assert cells["whole", "part"].n_shared_groups == 16 == cells["part", "whole"].n_shared_groups
    assert min(cells[pair].p_value for pair in (("whole", "part"), ("part", "whole"))) > 0.02


def test_a_probe_of_the_whole_finds_a_planted_trait_in_a_part() -> None:
    activations, labels, groups = probe_set(6, TRAIT, 3.0, n_groups=20)
    part = np.flatnonzero(np.isin(groups, sorted(set(groups))[:8]))
    subset = (activations.select(part), labels[part], [groups[index] for index in part])
    cells = matrix({"whole": (activations, labels, groups), "part": subset})
    for pair in (("whole", "part"), ("part", "whole")):
        assert cells[pair].auroc > 0.9 and cells[pair].p_value < 0.1


def test_each_set_is_read_at_its_own_position() -> None:
    one, two = probe_set(0, TRAIT, 3.0), probe_set(1, TRAIT, 3.0)
    mean = (Activations(dict(two[0].values), (0,)), *two[1:])
    cells = matrix({"one": one, "mean": mean}, position={"one": -1, "mean": 0})
    assert cells["one", "mean"].auroc > 0.95
    assert (cells["one", "mean"].position, cells["mean", "one"].position) == (-1, 0)
    with pytest.raises(InputError, match="position -1: not collected"):
        matrix({"one": one, "mean": mean})


def test_other_test_sets_and_the_same_seed_give_the_same_rows() -> None:
    sets = {str(seed): probe_set(seed, TRAIT, 1.0) for seed in range(2)}
    only = matrix(sets, test_sets={"third": probe_set(7, TRAIT, 1.0)})
    assert list(only) == [("0", "third"), ("1", "third")]
    assert only == matrix(sets, test_sets={"third": probe_set(7, TRAIT, 1.0)})
    activations, labels, groups = sets["0"]
    with pytest.raises(InputError, match="35 labels"):
        matrix({"bad": (activations, labels[1:], groups)})
