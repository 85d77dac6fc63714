"""One question to an endpoint: what is asked again, what is given up, what is never followed."""

from __future__ import annotations

import email.utils
import json
import random
import socket
import threading
import time
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


def test_a_pause_may_be_a_date_or_a_fraction_and_nonsense_is_none() -> None:
    def pause(value: str) -> float:
        wait = Answer(status=429, headers={"Retry-After": value})
        return _asked([wait, said("x")])[2][0]

    assert 7 < pause(email.utils.formatdate(time.time() + 9, usegmt=True)) <= 9
    assert pause("2.5") == 2.5
    for nonsense in ("soon", "nan", "inf", "-3", email.utils.formatdate(0, usegmt=True)):
        assert pause(nonsense) <= 0.01


def test_delays_leave_the_global_random_numbers_alone() -> None:
    state = random.getstate()
    _asked([Answer(status=500), said("x")])
    assert random.getstate() == state


def test_an_answer_that_trickles_is_a_timeout() -> None:
    def trickle(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(1 << 16)
            try:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n")
                for _ in range(200):
                    client.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass  # the other side stopped waiting

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=[server])
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        endpoint = Endpoint(base_url=url, model="m", max_tries=1, timeout=0.5)
        begun = time.perf_counter()
        reply = ask(endpoint, MESSAGES, lambda pause: None)
        took = time.perf_counter() - begun
        thread.join()
    assert reply == Reply(None, "timeout", failed=True) and took < 5.0


def test_an_answer_cut_short_is_asked_again() -> None:
    whole = said("fine").body
    half = Answer(whole[: len(whole) // 2], headers={"Content-Length": str(len(whole))})
    reply, server, _ = _asked([half, said("fine")])
    assert reply == Reply("fine") and len(server.bodies) == 2


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


def test_an_account_without_money_stops_at_once() -> None:
    spent = Answer(json.dumps({"error": {"code": "insufficient_quota"}}), 429)
    with pytest.raises(InputError, match="insufficient_quota"):
        _asked([spent])


def test_a_server_that_repeats_the_key_is_not_quoted() -> None:
    body = json.dumps({"error": {"code": "bad key s3cret"}})
    assert _asked([Answer(body, 400)], key="s3cret")[0].reason == "status 400"


def test_rubbish_is_asked_again_until_there_is_an_answer() -> None:
    reply, server, _ = _asked([Answer("<html>busy"), Answer('{"error": {}}'), said("late")])
    assert reply == Reply("late") and len(server.bodies) == 3


def test_an_answer_in_typed_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "Rating: "}, {"type": "text", "text": "3"}]
    assert _asked([said(parts)])[0] == Reply("Rating: 3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "reason", "failed"),
    [
        (Answer("<html>hello"), "the server's answer is not a chat completion", True),
        (Answer("{}"), "the server's answer is not a chat completion", True),
        (Answer("[" * 200_000), "the server's answer is not a chat completion", True),
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
        ({"base_url": "http://[::1"}, "no address"),
        ({"base_url": "http://x:port/v1"}, "no address"),
        ({"base_url": "http://x/a b"}, "no address"),
        ({"base_url": "http://x/v1\n"}, "no address"),
        ({"base_url": "http://user:s3cret@x/v1"}, "has a user"),
        ({"base_url": "http://x/v1?key=s3cret"}, "a query"),
        ({"options": {"a": {1}}}, "not JSON"),
        ({"model": " "}, "no model"),
        ({"key": "a\nb"}, "no header may hold"),
        ({"max_tries": 0}, "tries"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Endpoint(**{"base_url": "http://x", "model": "m", **settings})
    assert "s3cret" not in str(caught.value)
