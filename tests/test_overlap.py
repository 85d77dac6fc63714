"""What two sets of texts share: planted overlaps are found, unrelated texts share nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lpa_interp.errors import InputError
from lpa_interp.overlap import nearest_rows, set_overlaps
from lpa_interp.prepared_sets import Embed, Embedded, normalised, prepare, word_ngrams
from lpa_interp.records import NearPair, SetOverlap
from lpa_interp.runs import read_rows, write_rows


@dataclass(frozen=True)
class Item:
    id: str
    text: str


def _items(texts: Sequence[str], prefix: str = "t") -> list[Item]:
    return [Item(f"{prefix}{number}", text) for number, text in enumerate(texts)]


def _overlaps(
    first: Sequence[str], second: Sequence[str], embed: Embed | None = None
) -> tuple[dict[str, SetOverlap], list[NearPair]]:
    a = prepare("first", _items(first, "a"), embed)
    b = prepare("second", _items(second, "b"), embed)
    rows, pairs = set_overlaps(a, b)
    return {row.measure: row for row in rows}, pairs


def _sentences(n: int, vocabulary: str, seed: int, words: int = 14) -> list[str]:
    generator = random.Random(seed)
    pool = [f"{vocabulary}{number}" for number in range(400)]
    return [" ".join(generator.choices(pool, k=words)) for _ in range(n)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Don't STOP,\n“now”!  ", "don t stop now"),
        ("ﬁne Straße", "fine strasse"),
        ("東京 で", "東京 で"),
        (" ?! ", "?!"),
    ],
)
def test_normalisation_leaves_the_words(text: str, words: str) -> None:
    assert normalised(text) == words


def test_texts_without_words_match_only_themselves() -> None:
    rows, _ = _overlaps(["?!", "a"], ["...", "?!"])
    assert rows["exact"].n_matched == 1


def test_word_ngrams_are_the_runs_of_n_words() -> None:
    assert word_ngrams("a b c d", 3) == {"a b c", "b c d"}
    assert word_ngrams("a b", 3) == frozenset()


def test_planted_duplicates_are_found_whatever_their_case_and_punctuation() -> None:
    first, second = _sentences(40, "x", 0), _sentences(30, "y", 1)
    second[3] = first[5].upper() + "!"
    second[7] = first[5]
    rows, pairs = _overlaps(first, second)
    row = rows["exact"]
    assert (row.n_first, row.n_second, row.n_measured) == (40, 30, 30)
    assert (row.n_matched, row.n_matched_in_first) == (2, 1)
    assert row.mean == pytest.approx(2 / 30) and row.maximum == 1.0
    exact = [(p.rank, p.first_id, p.second_id) for p in pairs if p.measure == "exact"]
    assert exact == [(1, "a5", "b3"), (2, "a5", "b7")]


def test_containment_is_the_share_of_runs_that_the_other_set_holds() -> None:
    words = [f"w{number}" for number in range(20)]
    # 13 words hold 6 runs of 8; the first 10 of them, shared, hold 3.
    second = [" ".join([*words[:10], "x", "y", "z"]), "too short to measure"]
    rows, pairs = _overlaps([" ".join(words), "nothing to do with it at all, not one word"], second)
    row = rows["ngram_8"]
    assert (row.n_measured, row.n_matched, row.n_matched_in_first, row.n_contained) == (1, 1, 1, 0)
    assert row.mean == row.maximum == pytest.approx(3 / 6)
    (pair,) = [p for p in pairs if p.measure == "ngram_8"]
    assert (pair.first_id, pair.second_id, pair.value) == ("a0", "b0", 0.5)
    longer = rows["ngram_13"]
    assert (longer.n_measured, longer.n_matched, longer.mean) == (1, 0, 0.0)


def test_a_text_with_seventy_percent_of_its_runs_is_contained() -> None:
    words = [f"w{number}" for number in range(17)]
    # 10 runs of 8, of which the last 7 or 6 are shared.
    for shared, contained in ((14, 1), (13, 0)):
        second = [" ".join([*("x" * 3 + "y" * 4)[: 17 - shared], *words[-shared:]])]
        rows, _ = _overlaps([" ".join(words)], second)
        assert rows["ngram_8"].n_contained == contained


def test_unrelated_texts_share_nothing() -> None:
    """The null: same words in another order are no duplicates and share no runs."""
    first = _sentences(60, "x", 0)
    shuffled = [" ".join(random.Random(n).sample(t.split(), 14)) for n, t in enumerate(first)]
    for second in (_sentences(60, "x", 1), shuffled):
        rows, _ = _overlaps(first, second)
        assert rows["exact"].n_matched == rows["ngram_8"].n_matched == 0
        assert rows["ngram_13"].maximum == 0.0
    # Word counts do not see the order: shuffled texts are the nearest there can be.
    assert rows["tfidf_cosine"].mean == pytest.approx(1.0)
    other, _ = _overlaps(first, _sentences(60, "z", 2))
    assert other["tfidf_cosine"].maximum == pytest.approx(0.0, abs=1e-12)


def test_texts_too_short_for_a_run_give_no_mean() -> None:
    rows, pairs = _overlaps(["one two"], ["two three"])
    assert rows["ngram_8"].mean is None and rows["ngram_8"].maximum is None
    assert (rows["ngram_8"].n_measured, rows["ngram_8"].n_matched) == (0, 0)
    assert {p.measure for p in pairs} == {"tfidf_cosine"}


def test_tfidf_cosine_agrees_with_scikit_learn_on_both_sets_together() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    first, second = _sentences(8, "x", 0), _sentences(6, "x", 1)
    vectors = TfidfVectorizer().fit_transform([*first, *second]).toarray()
    cosines = vectors[8:] @ vectors[:8].T
    row = _overlaps(first, second)[0]["tfidf_cosine"]
    assert row.mean == pytest.approx(cosines.max(axis=1).mean())
    assert row.maximum == pytest.approx(cosines.max())
    assert row.mean_of_all_pairs == pytest.approx(cosines.mean())
    assert row.n_matched is None and "tf-idf" in row.method


def test_nearest_rows_are_those_of_the_whole_cosine_matrix() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(50, 6)), generator.normal(size=(30, 6))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]
    cosines = unit[1] @ unit[0].T
    where, values = nearest_rows(a, b)
    assert np.array_equal(where, cosines.argmax(axis=1))
    np.testing.assert_allclose(values, cosines.max(axis=1), atol=1e-12)


def _encoder(name: str, angles: dict[str, float]) -> Embed:
    def embed(texts: Sequence[str]) -> Embedded:
        vectors = [[np.cos(angles[text]), np.sin(angles[text])] for text in texts]
        return Embedded(np.array(vectors), name, len(texts))

    return embed


def test_embedding_cosines_give_mean_maximum_and_the_nearest_pairs() -> None:
    angles = {"north": 0.0, "south": np.pi, "near north": 0.1, "east": np.pi / 2 - 0.2}
    encoder = _encoder("compass", angles)
    rows, pairs = _overlaps(["south", "north"], ["east", "near north"], encoder)
    row = rows["embedding_cosine"]
    nearest = np.cos([angles["east"], 0.1])
    assert row.mean == pytest.approx(nearest.mean()) and row.maximum == pytest.approx(np.cos(0.1))
    assert row.mean_of_all_pairs == pytest.approx(0.0, abs=1e-12)
    assert row.n_cut == 4 and "compass" in row.method
    found = [(p.rank, p.first_id, p.second_id) for p in pairs if p.measure == "embedding_cosine"]
    assert found == [(1, "a1", "b1"), (2, "a1", "b0")]


def test_sets_of_two_encoders_are_not_compared() -> None:
    texts = {"x": 0.0}
    first = prepare("first", _items(["x"]), _encoder("one", texts))
    second = prepare("second", _items(["x"]), _encoder("two", texts))
    with pytest.raises(InputError, match=r"set second: was embedded by two \(one\)"):
        set_overlaps(first, second)


def test_an_empty_set_and_a_set_against_itself_are_input_errors() -> None:
    with pytest.raises(InputError, match="set first: holds no texts"):
        prepare("first", [])
    one = prepare("first", _items(["x"]))
    with pytest.raises(InputError, match="set first: is compared with itself"):
        set_overlaps(one, one)


def test_rows_can_be_written_and_read_again(tmp_path: Path) -> None:
    rows, pairs = _overlaps(_sentences(5, "x", 0), _sentences(4, "x", 1))
    for written, record in ((list(rows.values()), SetOverlap), (pairs, NearPair)):
        path = tmp_path / f"{record.__name__}.jsonl"
        write_rows(path, written)
        assert read_rows(path, record) == written
