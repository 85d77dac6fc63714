"""Asking a chat model behind an OpenAI-compatible endpoint: patient, and honest about failure.

Only the standard library is used. What a server is slow or briefly unable to answer is asked
again, with growing delays; what it never answers comes back with the reason, and does not take
with it what was answered before.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lpa_interp.errors import InputError

RETRIED = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""Statuses of a server, or of a gateway before it, that may well answer later."""

USELESS = (301, 302, 303, 307, 308, 401, 402, 403, 404, 405)
"""Statuses that every request would get: a wrong address, model or key, or no money left."""

SPENT = ("insufficient_quota", "billing_hard_limit_reached")
"""Error codes, sent with status 429 or 400, of an account that has no money left."""

FILTERED = ("content_filter", "content_policy_violation")
"""Error codes of a server that will not have its model judge such a text."""

REFUSED = "the judge refused"

RUBBISH = "the server's answer is not a chat completion"

LARGEST_ANSWER = 1 << 20
"""Bytes of an answer that are read; a longer one is not a judge's."""

_JITTER = random.Random()  # of its own: a delay must not move the caller's random numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A chat model at an address, and how long to wait for it.

    ``base_url`` is what stands before ``/chat/completions``; it may hold no key. ``options`` are
    added to each request's body and replace its own keys; None takes a key out. Delays double
    from ``first_delay`` to ``longest_delay`` with a random half off.
    """

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 60.0
    """Seconds without a byte from the server, and seconds that the body may take once begun."""
    max_tries: int = 6
    first_delay: float = 1.0
    """Seconds."""
    longest_delay: float = 60.0
    """Seconds; also the most that a server's ``Retry-After`` is followed."""

    @property
    def host(self) -> str | None:
        """The machine's name, without the port: a server of one's own often changes it."""
        return urllib.parse.urlsplit(self.base_url).hostname

    def __post_init__(self) -> None:
        _check_address(self.base_url)
        if not self.model.strip():
            raise InputError("endpoint", "no model is named", "the model that is to answer")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise InputError("endpoint", "the key has characters that no header may hold")
        if self.max_tries < 1 or self.timeout <= 0 or min(self.first_delay, self.longest_delay) < 0:
            raise InputError("endpoint", "tries, timeout and delays are 1, above 0 and 0 or more")
        try:
            json.dumps(dict(self.options))
        except (TypeError, ValueError):
            raise InputError("endpoint", "the options are not JSON") from None


def _check_address(base_url: str) -> None:
    """Refuses what no request can be sent to, and what may hold a key; never repeats it."""
    allowed = "http:// or https://, a host and a path"
    try:
        address = urllib.parse.urlsplit(base_url)
        known = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        known = False
    plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
    if not (known and plain):
        raise InputError("endpoint", "its URL is no address", allowed)
    if address.username is not None or address.query or address.fragment:
        raise InputError("endpoint", "its URL has a user, a query or a fragment", allowed)


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's text, or None with the reason. ``failed``: no answer came at all."""

    text: str | None
    reason: str = ""
    failed: bool = False


def ask(endpoint: Endpoint, messages: list[dict[str, str]], sleep: Callable[[float], Any]) -> Reply:
    """Asks once, and again after a delay as long as that may help.

    Args:
        endpoint: Whom to ask.
        messages: The conversation, in the roles of the chat completions interface.
        sleep: Called with the seconds to wait; a true answer ends the waiting for good.

    Raises:
        InputError: The address, model or key is wrong, so that no request can succeed.
    """
    reason = ""
    for attempt in range(endpoint.max_tries):
        pause = 0.0
        try:
            reply = _read(_post(endpoint, messages))
            if not reply.failed:
                return reply
            reason = reply.reason  # a gateway's page, or an answer cut short
        except urllib.error.HTTPError as error:
            with error:
                reason, pause = _refused(endpoint, error)
            if error.code not in RETRIED:
                return Reply(None, reason, failed=reason != REFUSED)
        except (OSError, http.client.HTTPException) as error:
            reason = _unreachable(error)
        if attempt + 1 < endpoint.max_tries and sleep(_delay(endpoint, attempt, pause)):
            break
    return Reply(None, reason, failed=True)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _post(endpoint: Endpoint, messages: list[dict[str, str]]) -> bytes:
    body = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": 512}
    body |= endpoint.options
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    request = urllib.request.Request(
        endpoint.base_url.rstrip("/") + "/chat/completions",
        json.dumps({k: v for k, v in body.items() if v is not None}).encode(),
        headers,
    )
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(request, timeout=endpoint.timeout) as response:
        return _body(response, time.monotonic() + endpoint.timeout)


def _body(response: Any, deadline: float) -> bytes:
    """The answer's bytes. A server that sends one now and then would never time out by itself."""
    content = b""
    while len(content) <= LARGEST_ANSWER:
        part: bytes = response.read1(1 << 16)
        if not part:
            break
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError
    return content


def _read(content: bytes) -> Reply:
    """The text of the first choice, or why there is none."""
    try:
        choice = json.loads(content)["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply(None, RUBBISH, failed=True)
    if refusal or finish == "content_filter":
        return Reply(None, REFUSED)
    if finish == "length":
        return Reply(None, "the judge's answer was cut off")
    if isinstance(text, list):  # of typed parts
        parts = [part.get("text") for part in text if isinstance(part, dict)]
        text = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(text, str) or not text.strip():
        return Reply(None, "the judge's answer is empty")
    return Reply(text)


def _refused(endpoint: Endpoint, error: urllib.error.HTTPError) -> tuple[str, float]:
    """The reason and the pause that the server asks for; its text may repeat the prompt."""
    if error.code in USELESS:
        allowed = "check the address, the model and the key"
        raise InputError(endpoint.base_url, f"answers with status {error.code}", allowed) from None
    code = _error_code(endpoint, error)
    if code in SPENT:
        raise InputError(endpoint.base_url, f"answers with {code}", "check the account") from None
    if code in FILTERED:
        return REFUSED, 0.0
    told = f" ({code})" if code not in ("", "None", str(error.code)) else ""
    return f"status {error.code}{told}", _asked_pause(error.headers.get("Retry-After", ""))


def _error_code(endpoint: Endpoint, error: urllib.error.HTTPError) -> str:
    """The server's short name of the error, if it gives one; never the key."""
    try:
        content = _body(error, time.monotonic() + endpoint.timeout)
        code = str(json.loads(content)["error"]["code"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return "" if endpoint.key and endpoint.key in code else code[:40]


def _asked_pause(value: str) -> float:
    """Seconds of a ``Retry-After`` header: a number, or a date; 0 where it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _unreachable(error: OSError | http.client.HTTPException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "timeout"
    return f"no answer: {type(cause).__name__}"


def _delay(endpoint: Endpoint, attempt: int, pause: float) -> float:
    longest = min(endpoint.first_delay * 2**attempt, endpoint.longest_delay)
    return max(longest * _JITTER.uniform(0.5, 1.0), min(pause, endpoint.longest_delay))
