"""Demonstrations before the request: what is shipped, what is shown, what fits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from lpa_interp.benchmarks import load_benchmark
from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import Attack, attacked_rows
from lpa_interp.jailbreaks.context import n_tokens
from lpa_interp.jailbreaks.in_context import (
    after_turns,
    in_context_attack,
    in_context_defence,
    load_demonstrations,
    many_shot,
)
from lpa_interp.judges import keyword_refusal
from lpa_interp.model import HookedTransformer
from lpa_interp.overlap import set_overlaps
from lpa_interp.prepared_sets import NGRAMS, normalised, prepare, word_ngrams
from lpa_interp.prompt_sets import BENCHMARKS
from lpa_interp.records import Prompt
from tests.tiny import tiny_model

needs_data = pytest.mark.skipif(
    "LPA_DATA_DIR" not in os.environ, reason="LPA_DATA_DIR is not set: no public data here"
)
PROMPT = Prompt(id="a", text="Open the lock.", harmful=True, category="c", source="s")
TURNS = [("Hi.", "Yes."), ("And?", "No."), ("So?", "Sure.")]


def _as_prompts() -> list[Prompt]:
    return [
        Prompt(id=one.id, text=one.request, harmful=True, category="c", source="demonstrations")
        for one in load_demonstrations()
    ]


def test_demonstrations_are_distinct_and_rise_from_mischief_to_named_harm() -> None:
    shipped = load_demonstrations()
    assert [one.level for one in shipped] == sorted([1, 2, 3, 4] * 8)
    for field in ("id", "request", "answer", "refusal"):
        assert len({getattr(one, field) for one in shipped}) == len(shipped) == 32


def test_answers_agree_and_refusals_refuse() -> None:
    for one in load_demonstrations():
        assert keyword_refusal(one.answer) is False, one.id
        assert keyword_refusal(one.refusal) is True, one.id


def test_answers_hold_nothing_after_their_opening_that_could_be_used() -> None:
    """No word of the request comes back, no quantity, and few words serve all 32."""
    vocabulary: set[str] = set()
    for one in load_demonstrations():
        _, _, rest = one.answer.partition(". ")
        words = set(re.findall("[a-z]+", rest.lower()))
        asked = {word for word in re.findall("[a-z]+", one.request.lower()) if len(word) > 3}
        assert words and not words & asked, one.id
        assert set(re.findall("[0-9]+", rest)) <= {"1", "2", "3"}, one.id
        vocabulary |= words
    assert len(vocabulary) < 130


def test_no_request_is_a_shipped_one_or_near_it() -> None:
    requests = load_benchmark("requests", "all")
    rows, _ = set_overlaps(prepare("demonstrations", _as_prompts()), prepare("requests", requests))
    largest = {row.measure: row.maximum or 0.0 for row in rows}
    assert largest["exact"] == largest["ngram_8"] == largest["ngram_13"] == 0.0
    assert 0.0 < largest["tfidf_cosine"] < 0.5


@pytest.mark.data
@needs_data
def test_no_request_is_in_a_public_set() -> None:
    keys = [normalised(prompt.text) for prompt in _as_prompts()]
    grams = {n: frozenset().union(*(word_ngrams(key, n) for key in keys)) for n in NGRAMS}
    assert grams[8] and grams[13]
    for name in BENCHMARKS:
        for prompt in load_benchmark(name, "all"):
            key = normalised(prompt.text)
            assert key not in keys, prompt.id
            assert not any(grams[n] & word_ngrams(key, n) for n in NGRAMS), prompt.id


@pytest.mark.parametrize(
    ("make", "default", "answers"),
    [
        (in_context_attack, 5, "answer"),
        (many_shot, 16, "answer"),
        (in_context_defence, 2, "refusal"),
    ],
)
def test_the_most_harmful_demonstrations_are_shown_the_most_harmful_last(
    make: Callable[..., Attack], default: int, answers: str
) -> None:
    shipped = load_demonstrations()
    model = tiny_model()
    model.cfg.n_ctx = 10**6
    for shots, attack in ((default, make()), (3, make(shots=3))):
        with attack.mount(model, [PROMPT], None) as mounted:
            given = mounted.given[0]
        assert given.turns == tuple((d.request, getattr(d, answers)) for d in shipped[-shots:])
        assert (given.text, given.system, given.prefill) == (PROMPT.text, None, "")
        assert str(shots) in attack.description and attack.citation
    assert make(shots=default).name == make().name and make(shots=3).name == f"{make().name}:3"


@pytest.mark.parametrize("shots", [0, 33])
def test_more_shots_than_there_are_is_an_input_error(shots: int) -> None:
    with pytest.raises(InputError, match=rf"many_shot:{shots}: {shots} shots .*1 to 32"):
        many_shot(shots)


def test_turns_stand_before_the_request_in_their_order() -> None:
    model = tiny_model()
    with after_turns("mine", TURNS, room=8)(model, [PROMPT], None) as mounted:
        row = attacked_rows(model, mounted.given)[0]
    assert model.tokenizer is not None
    shown = model.tokenizer.decode(row)
    said = [*(word for turn in TURNS for word in turn), PROMPT.text]
    assert [shown.index(words) for words in said] == sorted(shown.index(words) for words in said)
    assert shown.count("<|start|>assistant\n") == 4


def test_too_many_shots_for_the_context_say_how_many_fit() -> None:
    """The longest prompt decides, wherever it stands; counted again by hand."""
    model = tiny_model()
    longer = Prompt(id="b", text="Open the lock. " * 3, harmful=True, category="c", source="s")
    mount = after_turns("mine", TURNS, room=8)
    with mount(model, [longer], None) as mounted:
        needed = n_tokens(model, mounted.given[0]) + 8
    model.cfg.n_ctx = needed
    with mount(model, [longer, PROMPT], None):
        pass
    model.cfg.n_ctx = needed - 1
    message = rf"attack mine: 3 demonstrations .* prompt b \(2 fit: the context holds {needed - 1}"
    with pytest.raises(InputError, match=message), mount(model, [PROMPT, longer, PROMPT], None):
        pass
    with mount(model, [PROMPT], None):
        pass
    model.cfg.n_ctx = 12
    with pytest.raises(InputError, match="not even 0 fit"), mount(model, [PROMPT], None):
        pass


def test_no_prompts_are_no_mistake_and_no_room_is_one() -> None:
    with after_turns("mine", TURNS)(tiny_model(), [], None) as mounted:
        assert mounted.given == ()
    with pytest.raises(InputError, match="room for an answer: 0 tokens"):
        in_context_attack(room=0)


@pytest.mark.weights
def test_all_shipped_demonstrations_fit_into_the_default_model(
    default_model: HookedTransformer,
) -> None:
    with many_shot(32).mount(default_model, [PROMPT], None) as mounted:
        size = n_tokens(default_model, mounted.given[0])
    assert 1000 < size < default_model.cfg.n_ctx - 512
