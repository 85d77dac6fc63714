from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from lpa_interp.errors import InputError
from lpa_interp.records import AblationEffect, Direction
from probes.mediation import ablation_effects, class_midpoint, covariance_directions, project
from tests.planted import HOOK, grouped_data, harmful_rows, harmless_rows, refusing_model


def effects(**options: object) -> dict[tuple[str, str], AblationEffect]:
    model, planted, marker = refusing_model()
    anything = torch.randn(len(planted), generator=torch.Generator().manual_seed(0))
    absent = torch.linalg.qr(torch.stack([planted, marker, anything]).T)[0][:, 2]
    rows = ablation_effects(
        model,
        {"harmful": harmful_rows(model, 10), "harmless": harmless_rows(model, 10)},
        {"trait": absent.numpy(), "refusal": 5 * planted.numpy()},
        label="base",
        n_bootstrap=200,
        **options,  # type: ignore[arg-type]
    )
    return {(row.ablated, row.side): row for row in rows}


def test_only_the_planted_direction_carries_the_refusal() -> None:
    found = effects()
    none, refusal = found["none", "harmful"], found["refusal", "harmful"]
    assert none.change == none.change_low == none.change_high == none.kl == 0
    assert none.refusal_log_odds > 3 > -3 > refusal.refusal_log_odds
    assert refusal.change_high < -6 and refusal.kl > 1
    assert refusal.change == pytest.approx(refusal.refusal_log_odds - none.refusal_log_odds)
    for control in ("trait", "random"):
        for side in ("harmful", "harmless"):
            assert abs(found[control, side].change) < 0.2 * abs(refusal.change)
    assert (refusal.n, refusal.n_draws, found["random", "harmful"].n_draws) == (10, 1, 8)


def test_intervals_hold_their_means_and_the_seed_fixes_everything() -> None:
    first = effects(seed=3)
    assert effects(seed=3) == first
    for row in first.values():
        assert row.low <= row.refusal_log_odds <= row.high
        assert row.change_low <= row.change <= row.change_high


def test_the_covariance_control_is_drawn_from_the_residual_stream() -> None:
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((500, 32)) * np.where(np.arange(32) < 2, 10.0, 0.1)
    draws = covariance_directions(residuals + 100, 400, rng)
    # With the covariance of the activations, mean left out.
    shares = draws.var(axis=0) / draws.var(axis=0).sum()
    assert shares[:2].sum() > 0.98
    assert abs(draws.mean(axis=0)[0]) < 0.2 * draws.std(axis=0)[0]
    found = effects(residuals=residuals)
    assert {name for name, _ in found} == {
        "none",
        "trait",
        "refusal",
        "random",
        "random_covariance",
    }


def test_bad_directions_and_single_prompts_are_refused() -> None:
    model, planted, _ = refusing_model()
    rows = harmful_rows(model, 2)
    zero = {"trait": np.zeros(model.cfg.d_model)}
    with pytest.raises(InputError, match="direction 'trait'"):
        ablation_effects(model, {"harmful": rows}, zero, label="base")
    with pytest.raises(InputError, match="two at least"):
        ablation_effects(model, {"harmful": rows[:1]}, {"trait": planted.numpy()}, label="base")


def test_class_means_lie_at_equal_distances_from_the_midpoint() -> None:
    activations, labels, _, planted = grouped_data(0, strength=2.0)
    values = activations.at(HOOK)
    direction = Direction(
        name="trait",
        model="base",
        hook_name=HOOK,
        layer=0,
        position=-1,
        method="mean_difference",
        raw_norm=1.0,
        n=60,
        split="all",
        vector=planted.astype(np.float32),
    )
    groups = ["positive_trait" if label else "negative_trait" for label in labels]
    rows = project(
        values,
        direction,
        class_midpoint(values[labels], values[~labels]),
        groups=groups,
        text_ids=[str(index) for index in range(len(labels))],
    )
    projected = np.array([row.value for row in rows])
    assert projected[labels].mean() == pytest.approx(-projected[~labels].mean(), abs=1e-5)
    assert projected[labels].mean() == pytest.approx(2, abs=0.5)
    assert rows[3].text_id == "3" and rows[0].group == groups[0]
    assert binomtest(int((projected[labels] > 0).sum()), int(labels.sum()), 0.5).pvalue < 1e-3
