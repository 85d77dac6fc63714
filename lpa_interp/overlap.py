"""How much two sets of texts share: same texts, runs of words, and nearness in meaning.

A benchmark that shares texts with what a model was trained on, or with what a method was chosen
on, measures memory. The counts are of whole sets: nothing is sampled, so they have no interval.
A cosine means little by itself: read it beside that of a set that has nothing to do with the
matter (the statements ``abstract``, plain facts) and of sets that are known to overlap.

Sources: containment, Broder 1997 (On the resemblance and containment of documents); runs of 13
words, and of no fewer than 8, Brown et al. 2020, arXiv 2005.14165, appendix C; 70 % of the runs
of 8 words, Chowdhery et al. 2022, arXiv 2204.02311, section 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lpa_interp.errors import InputError
from lpa_interp.prepared_sets import NGRAMS, Array, Embedded, PreparedSet, prepare
from lpa_interp.records import NearPair, SetOverlap

__all__ = ["CONTAINED", "nearest_rows", "prepare", "set_overlaps"]

CONTAINED = 0.7
"""The share of its 8-word runs from which on a text counts as contained (Chowdhery et al.)."""

_Measured = tuple[SetOverlap, list[NearPair]]


def set_overlaps(
    first: PreparedSet, second: PreparedSet, n_nearest: int = 3
) -> tuple[list[SetOverlap], list[NearPair]]:
    """Measures the second set against the first: one row a measure, and the nearest pairs.

    Args:
        first: What was trained on, or chosen on.
        second: What is measured on.
        n_nearest: Pairs to give of each measure; the exact one gives all.

    Returns:
        Rows for exact texts, runs of 8 and 13 words, tf-idf cosine, and embedding cosine where
        both sets were embedded; and the pairs.

    Raises:
        InputError: The sets have one name, or were embedded by two encoders.
    """
    if first.name == second.name:
        raise InputError(f"set {first.name}", "is compared with itself", "two sets")
    measured = [_exact(first, second)]
    measured += [_contained(first, second, n, n_nearest) for n in NGRAMS]
    measured.append(_tfidf(first, second, n_nearest))
    if first.embedded is not None and second.embedded is not None:
        measured.append(_embedding(first, second, first.embedded, second.embedded, n_nearest))
    return [row for row, _ in measured], [pair for _, pairs in measured for pair in pairs]


def _exact(first: PreparedSet, second: PreparedSet) -> _Measured:
    where: dict[str, int] = {}
    for at, key in enumerate(first.keys):
        where.setdefault(key, at)
    values = np.array([float(key in where) for key in second.keys])
    there = set(second.keys)
    triples = [(where[key], at, 1.0) for at, key in enumerate(second.keys) if key in where]
    row = _row(
        first,
        second,
        "exact",
        values,
        method="the same words in the same order",
        n_matched=len(triples),
        n_matched_in_first=sum(key in there for key in first.keys),
    )
    return row, _pairs(first, second, "exact", triples)


def _contained(first: PreparedSet, second: PreparedSet, n: int, n_nearest: int) -> _Measured:
    """Containment of each text x of ``second`` in ``first``: |S(x) ∩ S(first)| / |S(x)|."""
    held: frozenset[str] = frozenset().union(*first.grams[n])
    there: frozenset[str] = frozenset().union(*second.grams[n])
    places = [at for at, grams in enumerate(second.grams[n]) if grams]
    values = np.array([len(second.grams[n][at] & held) / len(second.grams[n][at]) for at in places])
    triples = []
    for index in np.argsort(-values, kind="stable")[:n_nearest]:
        grams = second.grams[n][places[index]]
        shared = [len(grams & other) for other in first.grams[n]]
        if max(shared):
            triples.append((int(np.argmax(shared)), places[index], float(values[index])))
    row = _row(
        first,
        second,
        f"ngram_{n}",
        values,
        method=f"share of the text's runs of {n} words that the first set holds",
        n_matched=int((values > 0).sum()),
        n_matched_in_first=sum(not grams.isdisjoint(there) for grams in first.grams[n]),
        n_contained=int((values >= CONTAINED).sum()),
    )
    return row, _pairs(first, second, f"ngram_{n}", triples)


def _tfidf(first: PreparedSet, second: PreparedSet, n_nearest: int) -> _Measured:
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfTransformer

    both = TfidfTransformer().fit_transform(vstack([first.words, second.words]).tocsr())
    cut = len(first.ids)
    method = "cosine of tf-idf of single words, idf of both sets together"
    return _near(first, second, "tfidf_cosine", both[:cut], both[cut:], n_nearest, method=method)


def _embedding(
    first: PreparedSet, second: PreparedSet, a: Embedded, b: Embedded, n_nearest: int
) -> _Measured:
    if a.encoder != b.encoder:
        raise InputError(f"set {second.name}", f"was embedded by {b.encoder}", a.encoder)
    more = {"method": f"cosine of {a.encoder} embeddings", "n_cut": a.n_cut + b.n_cut}
    return _near(first, second, "embedding_cosine", a.vectors, b.vectors, n_nearest, **more)


def _near(
    first: PreparedSet,
    second: PreparedSet,
    measure: str,
    a: Any,
    b: Any,
    n_nearest: int,
    **more: Any,
) -> _Measured:
    """The cosine of each row of ``b`` with the nearest row of ``a``; rows are unit or zero."""
    where, values = nearest_rows(a, b)
    best = np.argsort(-values, kind="stable")[:n_nearest]
    triples = [(int(where[at]), int(at), float(values[at])) for at in best]
    mean = float(np.asarray(a.mean(axis=0)).ravel() @ np.asarray(b.mean(axis=0)).ravel())
    row = _row(first, second, measure, values, mean_of_all_pairs=mean, **more)
    return row, _pairs(first, second, measure, triples)


def nearest_rows(a: Any, b: Any) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """For each row of ``b`` the index of the nearest row of ``a``, and their cosine.

    Args:
        a: Rows ``[m d]``, dense or sparse.
        b: Rows ``[n d]``.
    """
    from sklearn import config_context
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(a)
    with config_context(working_memory=256):  # MiB
        distances, where = search.kneighbors(b)
    return where[:, 0], 1.0 - distances[:, 0].astype(np.float64)


def _row(
    first: PreparedSet, second: PreparedSet, measure: str, values: Float[Array, " n"], **more: Any
) -> SetOverlap:
    return SetOverlap(
        first=first.name,
        second=second.name,
        measure=measure,
        n_first=len(first.ids),
        n_second=len(second.ids),
        n_measured=len(values),
        mean=float(values.mean()) if len(values) else None,
        maximum=float(values.max()) if len(values) else None,
        **more,
    )


def _pairs(
    first: PreparedSet, second: PreparedSet, measure: str, triples: Sequence[tuple[int, int, float]]
) -> list[NearPair]:
    return [
        NearPair(
            first=first.name,
            second=second.name,
            measure=measure,
            rank=rank,
            first_id=first.ids[a],
            second_id=second.ids[b],
            value=value,
        )
        for rank, (a, b, value) in enumerate(triples, start=1)
    ]
