"""One question to an endpoint: what is asked again, what is given up, what is never followed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from lpa_interp.endpoint import Endpoint, Reply, ask
from lpa_interp.errors import InputError
from tests.chat_server import Answer, Server, chat_server, said

MESSAGES = [{"role": "user", "content": "grade this"}]


def _asked(answers: Sequence[Answer], **settings: Any) -> tuple[Reply, Server, list[float]]:
    """The reply where the server gives these answers in turn, and the pauses made."""
    pauses: list[float] = []
    with chat_server(lambda number, _: answers[min(number, len(answers) - 1)]) as server:
        fields = {"first_delay": 0.01, "timeout": 5.0, **settings}
        endpoint = Endpoint(base_url=server.url, model="judge-1", **fields)
        reply = ask(endpoint, MESSAGES, pauses.append)
    return reply, server, pauses


def test_the_body_holds_model_messages_and_options_and_the_header_the_key() -> None:
    options = {"max_tokens": None, "max_completion_tokens": 9}
    reply, server, _ = _asked([said("fine")], key="s3cret", options=options)
    assert reply == Reply("fine")
    expected = {"model": "judge-1", "messages": MESSAGES, "temperature": 0}
    assert server.bodies == [expected | {"max_completion_tokens": 9}]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer s3cret"


def test_without_a_key_none_is_sent_and_a_key_is_not_shown() -> None:
    _, server, _ = _asked([said("fine")])
    assert "Authorization" not in server.headers[0]
    assert "s3cret" not in repr(Endpoint(base_url="http://x", model="m", key="s3cret"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_until_it_answers(status: int) -> None:
    reply, server, pauses = _asked([Answer(status=status), Answer(status=status), said("late")])
    assert reply == Reply("late") and len(server.bodies) == 3
    assert 0.005 <= pauses[0] <= 0.01 and 0.01 <= pauses[1] <= 0.02


def test_a_timeout_is_asked_again_and_counted_as_one() -> None:
    slow = Answer(wait=0.5)
    assert _asked([slow, said("late")], timeout=0.1)[0] == Reply("late")
    reply, server, _ = _asked([slow], timeout=0.1, max_tries=2)
    assert reply == Reply(None, "timeout", failed=True) and len(server.bodies) == 2


def test_tries_have_a_limit_and_the_last_reason_is_kept() -> None:
    reply, server, pauses = _asked([Answer(status=500)], max_tries=3)
    assert reply == Reply(None, "status 500", failed=True)
    assert len(server.bodies) == 3 and len(pauses) == 2


def test_the_pause_that_a_server_asks_for_is_kept_up_to_the_longest() -> None:
    wait = Answer(status=429, headers={"Retry-After": "7"})
    assert _asked([wait, said("x")])[2] == [7.0]
    assert _asked([wait, said("x")], longest_delay=2.0)[2] == [2.0]


def test_delays_double_up_to_the_longest() -> None:
    pauses = _asked([Answer(status=500)], max_tries=6, first_delay=1.0, longest_delay=4.0)[2]
    for pause, longest in zip(pauses, (1, 2, 4, 4, 4), strict=True):
        assert longest / 2 <= pause <= longest


def test_nobody_listening_is_a_failure_with_its_name() -> None:
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="m", max_tries=1)
    reply = ask(endpoint, MESSAGES, lambda pause: None)
    assert reply == Reply(None, "no answer: ConnectionRefusedError", failed=True)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_at_once(status: int) -> None:
    with pytest.raises(InputError, match=rf"status {status} \(check the address, the model"):
        _asked([Answer(status=status)], key="s3cret")


def test_a_redirect_is_not_followed_with_the_key() -> None:
    elsewhere = Answer(status=302, headers={"Location": "http://127.0.0.1:9/v1"})
    with pytest.raises(InputError, match="status 302"):
        _asked([elsewhere], key="s3cret")


def test_a_bad_request_is_not_repeated_and_its_code_is_told_without_its_text() -> None:
    body = json.dumps({"error": {"code": "unsupported_parameter", "message": "the prompt"}})
    reply, server, _ = _asked([Answer(body, 400)])
    assert reply == Reply(None, "status 400 (unsupported_parameter)", failed=True)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "reason", "failed"),
    [
        (Answer("<html>hello"), "the server's answer is not a chat completion", True),
        (Answer("{}"), "the server's answer is not a chat completion", True),
        (Answer('{"choices": []}'), "the server's answer is not a chat completion", True),
        (said(None), "the judge's answer is empty", False),
        (said("  "), "the judge's answer is empty", False),
        (said("half of it", "length"), "the judge's answer was cut off", False),
        (said(None, refusal="No."), "the judge refused", False),
        (said(None, "content_filter"), "the judge refused", False),
        (Answer('{"error": {"code": "content_filter"}}', 400), "the judge refused", False),
    ],
)
def test_rubbish_and_refusals_are_told_apart(answer: Answer, reason: str, failed: bool) -> None:
    assert _asked([answer])[0] == Reply(None, reason, failed)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "file:///etc/passwd"}, "http:// or https://"),
        ({"base_url": "api.example.org/v1"}, "http:// or https://"),
        ({"model": " "}, "no model"),
        ({"key": "a\nb"}, "no header may hold"),
        ({"max_tries": 0}, "tries"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Endpoint(**{"base_url": "http://x", "model": "m", **settings})
