"""Linear centred kernel alignment, debiased: how alike two readings of the same texts are.

Plain CKA approaches 1 for any two representations with more dimensions than texts. The debiased
version leaves out the products of a text with itself.

Source: Kornblith et al. 2019, arXiv 1905.00414, equation 5; the unbiased HSIC of Song et al.
2012, JMLR 13:1393, equation 5, as the inner product of U-centred matrices (Székely and Rizzo
2014, Annals of Statistics 42:2382, section 3).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int

from lpa_interp.errors import InputError


def u_centred(values: Float[np.ndarray, "n d_model"]) -> Float64[np.ndarray, "n n"]:
    """The U-centred Gram matrix of the rows: zero on the diagonal, rows that sum to zero.

    Raises:
        InputError: There are fewer than four rows.
    """
    n = len(values)
    if n < 4:
        raise InputError("activations", f"{n} texts are too few for CKA", "four at least")
    # The result does not depend on the mean; taking it off saves digits.
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0)
    gram += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums[None, :]) / (n - 2)
    np.fill_diagonal(gram, 0.0)
    return gram


def linear_cka(
    first: Float[np.ndarray, "n d_first"], second: Float[np.ndarray, "n d_second"]
) -> float:
    """Debiased linear CKA: 1 for equal geometry, about 0 for unrelated readings; never above 1.

    Raises:
        InputError: There are fewer than four texts, or all are equal in one reading.
    """
    return float(alignment(u_centred(first), u_centred(second), np.ones((1, len(first))))[0])


def alignment(
    first: Float64[np.ndarray, "n n"],
    second: Float64[np.ndarray, "n n"],
    weights: Float64[np.ndarray, "k n"],
) -> Float64[np.ndarray, " k"]:
    """Cosine of two U-centred matrices, each pair of texts weighted by both texts' weights.

    A resample of the texts is a row of counts: copies of one text make no pair, since the
    diagonal is zero. The centring is held fixed.

    Raises:
        InputError: A matrix is zero: all texts are equal.
    """
    cross, one, two = (
        pair_sums(weights, matrix) for matrix in (first * second, first**2, second**2)
    )
    if not (one.all() and two.all()):
        raise InputError("activations", "all texts are equal", "leave layer 0 out")
    aligned: np.ndarray = cross / np.sqrt(one * two)
    return aligned


def pair_sums(
    weights: Float64[np.ndarray, "k n"], matrix: Float64[np.ndarray, "n n"]
) -> Float64[np.ndarray, " k"]:
    """The sum of a matrix over pairs of texts, each pair weighted by both texts' weights."""
    sums: np.ndarray = ((weights @ matrix) * weights).sum(axis=1)
    return sums


def permuted_alignment(
    first: Float64[np.ndarray, "n n"],
    second: Float64[np.ndarray, "n n"],
    orders: Int[np.ndarray, "k n"],
) -> Float64[np.ndarray, " k"]:
    """The alignment with the texts of the second reading in each of several orders."""
    norm = np.sqrt((first**2).sum() * (second**2).sum())
    found = [(first * second[np.ix_(order, order)]).sum() for order in orders]
    return np.array(found) / norm
