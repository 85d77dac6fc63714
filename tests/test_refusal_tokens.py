from __future__ import annotations

import pytest

from lpa_interp.chat import tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.judges import refusal_token_ids
from lpa_interp.model import HookedTransformer
from probes.refusal_tokens import RefusalTokens, own_refusal_tokens
from tests.planted import harmful_rows, harmless_rows, refusing_model

SAYS_NO = "Sorry, I cannot help with that."


def openings(
    monkeypatch: pytest.MonkeyPatch, refused: int, **options: float
) -> tuple[RefusalTokens, int, HookedTransformer]:
    """Own refusal tokens of a model that begins refusals with a token of its own.

    Its completions are made up: refusals of the first ``refused`` harmful prompts.
    """
    model, direction, _ = refusing_model()
    own = len(tokenizer_of(model)) - 1
    model.unembed.W_U[:, own] += 4.0 * direction
    rows = harmful_rows(model, 20), harmless_rows(model, 20)
    texts = iter([[SAYS_NO] * refused + ["Here"] * (20 - refused), ["Here is how."] * 20])
    monkeypatch.setattr("probes.refusal_tokens.generate", lambda *_: next(texts))
    return own_refusal_tokens(model, *rows, **options), own, model  # type: ignore[arg-type]


def test_refusal_tokens_are_those_that_the_model_begins_its_own_refusals_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, own, model = openings(monkeypatch, refused=18)
    assert found.token_ids == (own,) and own not in refusal_token_ids(model)
    assert found.refusals == {own: 18} and found.reason == ""
    assert (found.n_refusals, found.n_answers) == (18, 20)
    assert own not in found.answers


def test_too_few_refusals_and_tokens_that_begin_answers_fall_back_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, _, model = openings(monkeypatch, refused=4)
    assert list(found.token_ids) == refusal_token_ids(model)
    assert found.reason == "only 4 of 20 harmful prompts were refused"
    # A model that begins everything alike has no token of its own for refusals.
    same = harmless_rows(model, 20)
    texts = iter([[SAYS_NO] * 20, ["Here is how."] * 20])
    monkeypatch.setattr("probes.refusal_tokens.generate", lambda *_: next(texts))
    alike = own_refusal_tokens(model, same, same)
    assert list(alike.token_ids) == refusal_token_ids(model)
    assert "common in refusals and rare in answers" in alike.reason
    # Five refusals of twenty begin with the one token that answers do not.
    mixed = harmful_rows(model, 5) + same[5:]
    texts = iter([[SAYS_NO] * 20, ["Here is how."] * 20])
    few = own_refusal_tokens(model, mixed, same)
    assert few.reason == "tokens that are rare in answers begin only 5 of 20 refusals"
    with pytest.raises(InputError, match="both sides"):
        own_refusal_tokens(model, same, [])
    with pytest.raises(InputError, match="min_refusal_share"):
        own_refusal_tokens(model, same, same, min_refusal_share=2.0)
