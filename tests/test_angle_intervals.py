"""What the interval of a cosine covers: the angle that ever more texts would lead to."""

from __future__ import annotations

import numpy as np
import pytest

from lpa_interp.records import DirectionAngle
from probes.activations import Activations
from probes.angle_intervals import cosine_interval
from probes.families import DirectionFamily, LabelledTexts, labelled_family
from probes.geometry import direction_angles

D_MODEL = 48
HOOK = "blocks.0.hook_resid_pre"
RUNS = 60


def axes(rng: np.random.Generator, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Two random unit vectors with a given cosine."""
    one, other = np.linalg.qr(rng.standard_normal((D_MODEL, 2)))[0].T
    return one, cosine * one + np.sqrt(1 - cosine**2) * other


def facets(rng: np.random.Generator, direction: np.ndarray, signal: float) -> LabelledTexts:
    """15 positive and 7 negative facets of three texts that share half of their noise.

    ``signal`` is the squared length of the true difference over that of its noise.
    """
    group = np.repeat(np.arange(22), 3)
    own = rng.standard_normal((66, D_MODEL))
    noise = np.sqrt(0.5) * (rng.standard_normal((22, D_MODEL))[group] + own)
    labels = group < 15
    size = D_MODEL * (0.5 + 0.5 / 3) * (1 / 15 + 1 / 7)
    values = noise + np.sqrt(signal * size) * np.outer(labels, direction)
    return LabelledTexts({HOOK: values}, labels, [f"facet {g}" for g in group])


def requests(
    rng: np.random.Generator, direction: np.ndarray, signal: float, noise: np.ndarray | None = None
) -> LabelledTexts:
    """48 harmful and 48 harmless texts, each by itself."""
    labels = np.repeat([True, False], 48)
    values = rng.standard_normal((96, D_MODEL)) if noise is None else noise
    values = values + np.sqrt(signal * D_MODEL * 2 / 48) * np.outer(labels, direction)
    return LabelledTexts({HOOK: values}, labels, [f"request {index}" for index in range(96)])


def fitted(texts: LabelledTexts) -> np.ndarray:
    values = texts.values[HOOK]
    return values[texts.labels].mean(0) - values[~texts.labels].mean(0)


def cosine(first: LabelledTexts, second: LabelledTexts) -> float:
    one, two = fitted(first), fitted(second)
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def covered(truth: float, signal: float) -> float:
    """Share of simulated data sets whose interval holds the true cosine."""
    hits = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        one, two = axes(rng, truth)
        pair = facets(rng, one, signal), requests(rng, two, signal)
        low, high = cosine_interval(*pair, HOOK, n_bootstrap=200, seed=seed)
        hits.append(low <= truth <= high)
    return float(np.mean(hits))


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("signal", [1.0, 4.0, 20.0])
def test_the_interval_covers_the_true_cosine_at_its_level_or_above(
    truth: float, signal: float
) -> None:
    # 0.95 less three standard errors of 60 runs; noisy directions are covered more often.
    assert covered(truth, signal) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / RUNS)


def test_plain_percentiles_of_resampled_cosines_would_miss_it() -> None:
    hits = []
    for seed in range(RUNS // 3):
        rng = np.random.default_rng(seed)
        one, two = axes(rng, 0.8)
        pair = facets(rng, one, 4.0), requests(rng, two, 4.0)
        drawn = []
        for _ in range(100):
            again = [
                LabelledTexts({HOOK: texts.values[HOOK][rows]}, texts.labels[rows], [])
                for texts in pair
                for rows in [rng.integers(0, len(texts.labels), len(texts.labels))]
            ]
            drawn.append(cosine(*again))
        low, high = np.percentile(drawn, [2.5, 97.5])
        hits.append(low <= 0.8 <= high)
    assert np.mean(hits) < 0.3


def test_noise_that_two_directions_share_is_no_angle_between_them() -> None:
    inside, mistaken, seen = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        one, two = axes(rng, 0.0)
        noise = rng.standard_normal((96, D_MODEL))
        other = 0.9 * noise + np.sqrt(1 - 0.81) * rng.standard_normal((96, D_MODEL))
        first, second = requests(rng, one, 2.0, noise), requests(rng, two, 2.0, other)
        seen.append(cosine(first, second))
        low, high = cosine_interval(first, second, HOOK, 200, seed)
        inside.append(low <= 0 <= high)
        # The control: named as if they were other texts, the shared noise stays.
        apart = LabelledTexts(second.values, second.labels, [f"x{g}" for g in second.groups])
        low, high = cosine_interval(first, apart, HOOK, 200, seed)
        mistaken.append(low <= 0 <= high)
    assert np.mean(seen) > 0.2
    assert np.mean(inside) > 0.85 and np.mean(mistaken) < 0.5


def test_with_many_texts_the_interval_is_narrow_about_the_cosine_itself() -> None:
    rng = np.random.default_rng(0)
    one, two = axes(rng, 0.5)
    first, second = requests(rng, one, 2000.0), requests(rng, two, 2000.0)
    low, high = cosine_interval(first, second, HOOK)
    assert low < cosine(first, second) < high and high - low < 0.1
    assert (low, high) == cosine_interval(first, second, HOOK)
    assert (low, high) == pytest.approx(cosine_interval(second, first, HOOK))


def test_a_mean_of_texts_of_one_side_has_an_interval_too() -> None:
    rng = np.random.default_rng(1)
    one, two = axes(rng, 0.6)
    moved = rng.standard_normal((60, D_MODEL)) + 6 * one
    shift = LabelledTexts({HOOK: moved}, np.ones(60, dtype=bool), [str(i) for i in range(60)])
    low, high = cosine_interval(shift, requests(rng, two, 40.0), HOOK)
    assert low < 0.6 < high and high - low < 0.3


def test_angles_have_an_interval_where_both_families_know_their_texts() -> None:
    rng = np.random.default_rng(2)
    one, two = axes(rng, 0.5)
    texts, others = facets(rng, one, 20.0), requests(rng, two, 20.0)
    values = {HOOK: texts.values[HOOK].astype(np.float32)[:, None]}
    trait = labelled_family("trait", Activations(values, (-1,)), texts.labels, texts.groups)
    known = DirectionFamily("refusal", {HOOK: fitted(others)}, 96, others)
    unknown = DirectionFamily("refusal", {HOOK: fitted(others)}, 96)

    def rows(second: DirectionFamily) -> list[DirectionAngle]:
        return direction_angles(trait, second, model="base", nulls=("random",), n_null=19)

    (row,) = rows(known)
    assert row.low is not None and row.high is not None and row.level == 0.95
    assert -1 <= row.low < row.high <= 1
    (row,) = rows(unknown)
    assert (row.low, row.high, row.level) == (None, None, None)
