"""The tokens that a model's own refusals begin with.

Refusal is scored at the first answer token, so the score is only as good as the set of tokens
that stands for it. Instead of a list by model family, this reads it off the model: the first
tokens of its own completions that a judge calls refusals, without those that its answers to
harmless requests begin with as well.

Source: Arditi et al. 2024, arXiv 2406.11717, section 2.3, who choose such tokens by hand from
the most frequent first tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lpa_interp.chat import Row, row_batches, stop_tokens
from lpa_interp.errors import InputError
from lpa_interp.generation import generate
from lpa_interp.judges import keyword_refusal, refusal_token_ids
from lpa_interp.model import HookedTransformer, last_logits


@dataclass(frozen=True, slots=True)
class RefusalTokens:
    """Tokens that begin refusals, and what they were found from.

    ``token_ids`` are sorted. ``refusals`` and ``answers`` count the first tokens of the
    ``n_refusals`` refused harmful and ``n_answers`` answered harmless prompts. ``reason`` is
    empty where the tokens are the model's own; otherwise they are those of
    `lpa_interp.judges.refusal_token_ids`, and it says why.
    """

    token_ids: tuple[int, ...]
    refusals: Mapping[int, int]
    answers: Mapping[int, int]
    n_refusals: int
    n_answers: int
    reason: str


def own_refusal_tokens(
    model: HookedTransformer,
    harmful_rows: Sequence[Row],
    harmless_rows: Sequence[Row],
    *,
    min_refusal_share: float = 0.05,
    max_answer_ratio: float = 0.3,
    min_coverage: float = 0.5,
    min_refusals: int = 10,
    max_new_tokens: int = 32,
    batch_size: int = 16,
) -> RefusalTokens:
    """First tokens of the model's refusals that do not begin its answers.

    Args:
        model: Any HookedTransformer.
        harmful_rows: Prompts that the model should refuse; none that scores are reported on.
        harmless_rows: Prompts that it should answer.
        min_refusal_share: A token counts where it begins this share of the refusals or more.
        max_answer_ratio: It does not where its share of the answers is more than this fraction of
            its share of the refusals.
        min_coverage: Share of the refusals that the tokens must begin together: a set that leaves
            most of them out would score them as answers.
        min_refusals: Refusals, and answers, that are needed at least.
        max_new_tokens: Length of the completions that the keyword judge reads.
        batch_size: Prompts per forward pass.

    Raises:
        InputError: A side has no prompts, or a limit is outside 0 to 1.
    """
    if not harmful_rows or not harmless_rows:
        raise InputError("prompts", "both sides are needed")
    limits = {
        "min_refusal_share": min_refusal_share,
        "max_answer_ratio": max_answer_ratio,
        "min_coverage": min_coverage,
    }
    for name, limit in limits.items():
        if not 0 <= limit <= 1:
            raise InputError(name, f"{limit} is not allowed", "0 to 1")
    sizes = max_new_tokens, batch_size
    refusals = _first_tokens(model, harmful_rows, True, *sizes)
    answers = _first_tokens(model, harmless_rows, False, *sizes)
    n_refusals, n_answers = refusals.total(), answers.total()
    common = [token for token, n in refusals.items() if n >= min_refusal_share * n_refusals]
    found = [
        token
        for token in common
        if answers[token] * n_refusals <= max_answer_ratio * refusals[token] * n_answers
    ]
    covered, reason = sum(refusals[token] for token in found), ""
    if n_refusals < min_refusals:
        reason = f"only {n_refusals} of {len(harmful_rows)} harmful prompts were refused"
    elif n_answers < min_refusals:
        reason = f"only {n_answers} of {len(harmless_rows)} harmless prompts were answered"
    elif not found:
        reason = "no first token is common in refusals and rare in answers"
    elif covered < min_coverage * n_refusals:
        reason = f"tokens that are rare in answers begin only {covered} of {n_refusals} refusals"
    ids = refusal_token_ids(model) if reason else sorted(found)
    return RefusalTokens(tuple(ids), refusals, answers, n_refusals, n_answers, reason)


def _first_tokens(
    model: HookedTransformer,
    rows: Sequence[Row],
    refused: bool,
    max_new_tokens: int,
    batch_size: int,
) -> Counter[int]:
    """Counts of the first tokens of completions that are, or are not, refusals."""
    texts = generate(model, rows, max_new_tokens, batch_size)
    firsts = [0] * len(rows)
    for indices, tokens, mask in row_batches(model, rows, batch_size):
        with torch.no_grad():
            chosen = last_logits(model, tokens, mask)[:, -1].argmax(dim=-1)
        for index, token in zip(indices, chosen.tolist(), strict=True):
            firsts[index] = token
    ends = set(stop_tokens(model))
    return Counter(
        token
        for token, text in zip(firsts, texts, strict=True)
        if token not in ends and keyword_refusal(text) is refused
    )
