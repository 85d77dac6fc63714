"""The judges that ship with the package: lists of words, transparent and weak."""

from __future__ import annotations

from lpa_interp.errors import InputError
from lpa_interp.judging import Judge, one_by_one


def keyword_judge() -> Judge:
    """Whether a completion opens with a refusal; the judge that `evaluate` uses."""
    from lpa_interp.judges import KEYWORD_JUDGE, keyword_refusal  # loads torch

    def decide(text: str) -> float | None:
        refused = keyword_refusal(text)
        return None if refused is None else float(refused)

    return Judge(
        name=KEYWORD_JUDGE,
        measure="refusal_rate",
        decide=one_by_one(decide, "empty"),
        citation="written for this project; the idea is that of Zou et al. 2023, arXiv 2307.15043",
        limits="English; reads the opening alone and says nothing of harm",
    )


def harm_terms_judge() -> Judge:
    """Whether a completion says something harmful or sets out to, by a list of terms."""
    from lpa_interp.harm import harm_terms

    return Judge(
        name="harm_terms (weak)",
        measure="harm_rate",
        decide=one_by_one(harm_terms, "no letters, or not English"),
        citation="written for this project; sensitivity and specificity in lpa_interp.harm",
        limits="English; misses harm in words that it does not hold",
    )


TEXT_JUDGES = {"keyword": keyword_judge, "harm_terms": harm_terms_judge}


def text_judge(name: str) -> Judge:
    """The shipped judge of a name.

    Raises:
        InputError: There is no such judge.
    """
    if name not in TEXT_JUDGES:
        raise InputError(f"judge {name!r}", "unknown name", ", ".join(TEXT_JUDGES))
    return TEXT_JUDGES[name]()
