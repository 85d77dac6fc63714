from __future__ import annotations

import numpy as np
import pytest

from lpa_interp.errors import InputError
from probes.cka import alignment, linear_cka, pair_sums, permuted_alignment, u_centred


def unbiased_hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Song et al. 2012, equation 5, term by term."""
    n = len(first)
    one, two = first @ first.T, second @ second.T
    np.fill_diagonal(one, 0)
    np.fill_diagonal(two, 0)
    total = np.trace(one @ two) + one.sum() * two.sum() / ((n - 1) * (n - 2))
    total -= 2 / (n - 2) * (one @ two).sum()
    return float(total / (n * (n - 3)))


def plain_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Kornblith et al. 2019, section 3, with centred features."""
    one, two = first - first.mean(axis=0), second - second.mean(axis=0)
    norms = np.linalg.norm(one.T @ one) * np.linalg.norm(two.T @ two)
    return float(np.linalg.norm(two.T @ one) ** 2 / norms)


def test_it_is_the_ratio_of_unbiased_independence_criteria() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((12, 5))
    second = first[:, :3] + rng.standard_normal((12, 3))
    hsic = [unbiased_hsic(*pair) for pair in ((first, second), (first, first), (second, second))]
    expected = hsic[0] / np.sqrt(hsic[1] * hsic[2])
    assert linear_cka(first, second) == pytest.approx(expected, rel=1e-9)
    centred = u_centred(first)
    np.testing.assert_allclose(centred.sum(axis=0), 0, atol=1e-12)
    assert (np.diag(centred) == 0).all()


def test_rotation_scale_and_offset_change_nothing() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((20, 8))
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert linear_cka(values, 3 * values @ rotation + 5) == pytest.approx(1)


def test_unrelated_readings_score_about_zero_and_plain_cka_does_not() -> None:
    rng = np.random.default_rng(2)
    pairs = [rng.standard_normal((2, 30, 200)) for _ in range(50)]
    debiased = np.array([linear_cka(*pair) for pair in pairs])
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(50)
    assert np.mean([plain_cka(*pair) for pair in pairs]) > 0.8


def test_copies_of_a_text_in_a_resample_make_no_pair() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 9, 4))
    one, two = u_centred(first), u_centred(second)
    counts = np.array([[2, 0, 1, 1, 3, 0, 1, 1, 0]])
    drawn = np.repeat(np.arange(9), counts[0])
    apart = drawn[:, None] != drawn[None, :]
    cells = [matrix[np.ix_(drawn, drawn)][apart] for matrix in (one, two)]
    expected = cells[0] @ cells[1] / np.linalg.norm(cells[0]) / np.linalg.norm(cells[1])
    assert alignment(one, two, counts * 1.0)[0] == pytest.approx(expected)
    assert pair_sums(counts * 1.0, one)[0] == pytest.approx(cells[0].sum())


def test_permuted_texts_score_as_the_reordered_reading() -> None:
    first, second = np.random.default_rng(4).standard_normal((2, 9, 4))
    order = np.random.default_rng(5).permutation(9)
    found = permuted_alignment(u_centred(first), u_centred(second), order[None])
    assert found[0] == pytest.approx(linear_cka(first, second[order]))


def test_too_few_or_equal_texts_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        linear_cka(np.eye(3), np.eye(3))
    with pytest.raises(InputError, match="all texts are equal"):
        linear_cka(np.ones((5, 3)), np.eye(5))
