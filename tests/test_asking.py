"""Many questions at once: partial failures, giving up, and an end to waiting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from lpa_interp.asking import GIVE_UP_AFTER, ask_all
from lpa_interp.endpoint import Endpoint, Reply
from lpa_interp.errors import InputError
from tests.chat_server import Answer, Respond, chat_server, said


def _conversations(n: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": str(number)}] for number in range(n)]


def _replies(respond: Respond, n: int, workers: int = 4) -> tuple[list[Reply], int]:
    """The replies in the order of the questions, and how many requests the server saw."""
    with chat_server(respond) as server:
        endpoint = Endpoint(base_url=server.url, model="m", max_tries=1)
        found = dict(ask_all(endpoint, _conversations(n), workers))
        return [found[index] for index in range(n)], len(server.bodies)


def test_every_question_gets_its_own_answer_whatever_the_order() -> None:
    def respond(number: int, text: str) -> Answer:
        return Answer(said(f"about {text}").body, wait=0.05 if text == "0" else 0.0)

    replies, _ = _replies(respond, 9)
    assert [reply.text for reply in replies] == [f"about {index}" for index in range(9)]


def test_failures_in_between_leave_the_other_answers_whole() -> None:
    replies, _ = _replies(
        lambda _, text: Answer(status=500) if int(text) % 3 == 0 else said("ok"), 9
    )
    assert [reply.failed for reply in replies] == [index % 3 == 0 for index in range(9)]


def test_an_endpoint_that_dies_is_given_up_and_the_rest_is_marked() -> None:
    def respond(_: int, text: str) -> Answer:
        return said("ok") if int(text) < 3 else Answer(status=500)

    replies, asked = _replies(respond, 40, workers=1)
    assert [reply.text for reply in replies[:3]] == ["ok"] * 3
    assert asked == 3 + GIVE_UP_AFTER
    assert {reply.reason for reply in replies[3:asked]} == {"status 500"}
    rest = replies[asked:]
    assert len(rest) == 40 - asked and all(reply.failed for reply in rest)
    assert {reply.reason for reply in rest} == {"not asked: the endpoint gave no answers"}


def test_a_wrong_key_stops_everything() -> None:
    with pytest.raises(InputError, match="status 401"):
        _replies(lambda *_: Answer(status=401), 9)


def test_closing_ends_a_long_wait() -> None:
    with chat_server(lambda _, text: said("ok") if text == "0" else Answer(status=500)) as server:
        endpoint = Endpoint(base_url=server.url, model="m", first_delay=60.0)
        replies = ask_all(endpoint, _conversations(3), workers=3)
        assert next(replies) == (0, Reply("ok"))
        start = time.perf_counter()
        replies.close()
        assert time.perf_counter() - start < 5.0


def test_each_question_is_sent_with_its_seed_unless_the_options_say_otherwise() -> None:
    with chat_server(lambda *_: said("ok")) as server:
        endpoint = Endpoint(base_url=server.url, model="m")
        list(ask_all(endpoint, _conversations(2), seeds=[7, 8]))
        list(ask_all(replace(endpoint, options={"seed": None}), _conversations(1), seeds=[7]))
        list(ask_all(endpoint, _conversations(1)))
    seeds = {body["messages"][0]["content"]: body.get("seed") for body in server.bodies[:2]}
    assert seeds == {"0": 7, "1": 8}
    assert all("seed" not in body for body in server.bodies[2:])


def test_no_questions_need_no_server() -> None:
    questions: Sequence[list[dict[str, str]]] = []
    assert list(ask_all(Endpoint(base_url="http://x", model="m"), questions)) == []
