"""Sets of texts made ready to be compared: normalised texts, runs of words, word counts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from lpa_interp.errors import InputError

Array = np.ndarray[Any, Any]
NGRAMS = (8, 13)

_HASHED_WORDS = 2**20


@runtime_checkable
class HasText(Protocol):
    """A `Prompt`, a `TraitStatement`, or anything else with an id and a text."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Embedded:
    """Unit vectors of texts, the encoder's name and how many texts it did not read to the end."""

    vectors: Float[Array, "n d"]
    encoder: str
    n_cut: int


Embed = Callable[[Sequence[str]], Embedded]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSet:
    """A set of texts made ready once, to be compared with many others.

    ``keys`` are the normalised texts, ``grams`` the runs of n words of each text by n,
    ``words`` the sparse counts of single words ``[n hashed]``.
    """

    name: str
    ids: tuple[str, ...]
    keys: tuple[str, ...]
    grams: dict[int, tuple[frozenset[str], ...]]
    words: Any
    embedded: Embedded | None


def prepare(name: str, texts: Sequence[HasText], embed: Embed | None = None) -> PreparedSet:
    """Makes a set ready for `lpa_interp.overlap.set_overlaps`.

    Args:
        name: What rows call the set.
        texts: Its texts, with ids.
        embed: The encoder, from `lpa_interp.embeddings`; None leaves embeddings out.

    Raises:
        InputError: The set is empty.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    if not texts:
        raise InputError(f"set {name}", "holds no texts", "one or more")
    keys = tuple(normalised(item.text) for item in texts)
    counter = HashingVectorizer(
        n_features=_HASHED_WORDS, analyzer=str.split, alternate_sign=False, norm=None
    )
    return PreparedSet(
        name=name,
        ids=tuple(item.id for item in texts),
        keys=keys,
        grams={n: tuple(word_ngrams(key, n) for key in keys) for n in NGRAMS},
        words=counter.transform(keys),
        embedded=None if embed is None else embed([item.text for item in texts]),
    )


def normalised(text: str) -> str:
    """The words of a text: no case, punctuation or spacing; a text without words as it stands."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) or text.strip()


def word_ngrams(normalised_text: str, n: int) -> frozenset[str]:
    """The runs of ``n`` words of a normalised text; none where it has fewer words."""
    words = normalised_text.split()
    return frozenset(" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
