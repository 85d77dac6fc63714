"""A model behind an endpoint that an attack asks: answers kept, losses counted and told.

Every question has a label; the seed sent with it follows from the label and the attack's seed.
The same question under the same label is asked once and remembered, so that a search that was
stopped goes on where it was, and two models are attacked with the same first proposals.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lpa_interp.asking import GIVE_UP_AFTER, ask_all
from lpa_interp.endpoint import REFUSED, Endpoint, Reply
from lpa_interp.errors import InputError
from lpa_interp.judges import keyword_refusal
from lpa_interp.runs import content_hash, plain_disk_errors, read_rows, row_line, write_text

URL, MODEL, KEY_NAME, OPTIONS = (
    f"LPA_ATTACKER_{name}" for name in ("URL", "MODEL", "KEY_NAME", "OPTIONS")
)
SAMPLING = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 500}
"""How an attacker is sampled. Source: PAIR's released code, arXiv 2310.08419."""

Tell = Callable[[str], None]
Found = TypeVar("Found")


def attacker_endpoint_from_environment() -> Endpoint:
    """The attacker that ``LPA_ATTACKER_URL`` and ``LPA_ATTACKER_MODEL`` name.

    ``LPA_ATTACKER_KEY_NAME`` names the variable that holds its key, if it needs one;
    ``LPA_ATTACKER_OPTIONS`` holds a JSON object that is added to each request's body.

    Raises:
        InputError: One of them is missing or wrong. No message repeats a value: it may be a key.
    """
    url, model = (os.environ.get(name, "").strip() for name in (URL, MODEL))
    if not url or not model:
        missing = " and ".join(name for name, value in ((URL, url), (MODEL, model)) if not value)
        allowed = f"an OpenAI-compatible server; {KEY_NAME} names the variable that holds its key"
        raise InputError("attacker", f"set {missing} to the attacker model", allowed)
    key_name = os.environ.get(KEY_NAME, "").strip()
    key = os.environ.get(key_name, "").strip() if key_name else None
    if key == "":
        raise InputError(KEY_NAME, "the variable that it names is not set", "export it first")
    try:
        options = json.loads(os.environ.get(OPTIONS, "").strip() or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise InputError(OPTIONS, "is not a JSON object", "'{\"max_tokens\": 800}'")
    return Endpoint(base_url=url, model=model, key=key, options=options)


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation whose next turn is wanted, and a label that tells it from others."""

    label: str
    messages: tuple[dict[str, str], ...]


def said_by(role: str, content: str) -> dict[str, str]:
    """One message of a conversation."""
    return {"role": role, "content": content}


@dataclass(slots=True)
class Tally:
    """Questions asked, and those that were lost: no reading, a refusal, or no answer at all."""

    asked: int = 0
    unusable: int = 0
    refused: int = 0
    failed: int = 0
    reason: str = ""

    def __str__(self) -> str:
        failed = f"{self.failed} got no answer" + (f" ({self.reason})" if self.reason else "")
        return f"{self.asked} questions, {self.unusable} unusable, {self.refused} refused, {failed}"

    @property
    def lost(self) -> int:
        """Questions that brought nothing."""
        return self.unusable + self.refused + self.failed


@dataclass(frozen=True, slots=True)
class KeptReply:
    """What a model said to one question: a row of the file of kept replies."""

    key: str
    text: str | None
    reason: str


class KeptReplies:
    """Replies by question: in memory and, where a path is given, on disk as soon as they come."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._found: dict[str, Reply] = {}
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8")
            if not text.endswith("\n"):  # a process that was killed may have left half a row
                write_text(path, text[: text.rfind("\n") + 1])
            for row in read_rows(path, KeptReply):
                self._found[row.key] = Reply(row.text, row.reason)

    def get(self, key: str) -> Reply | None:
        """The reply to a question; None where it has none yet."""
        return self._found.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keeps a reply; a failure is not one."""
        self._found[key] = reply
        if self.path is not None:
            with plain_disk_errors(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as handle:
                    handle.write(row_line(KeptReply(key, reply.text, reply.reason)))


class Respondent:
    """A model that an attack asks many questions at once.

    A reply that cannot be used is asked for again, under another seed, up to ``tries`` times.
    A question that stays without one gives None and is counted. An endpoint that fails
    `GIVE_UP_AFTER` times in a row, or at all of its first questions, ends the attack: to go on
    without the attacker would measure another attack under its name.
    """

    def __init__(
        self, endpoint: Endpoint, seed: int, tries: int, workers: int, kept: KeptReplies
    ) -> None:
        if tries < 1 or workers < 1:
            raise InputError("attacker", "tries and workers are 1 or more")
        self.endpoint, self.seed, self.tries, self.workers = endpoint, seed, tries, workers
        self.kept = kept
        self.tally = Tally()
        self._answered, self._failures = False, 0

    def ask(
        self, questions: Sequence[Question], read: Callable[[str], Found | None]
    ) -> list[Found | None]:
        """What ``read`` makes of the reply to each question, in their order.

        Raises:
            InputError: The endpoint is down or refuses every request; replies so far are kept.
        """
        found: list[Found | None] = [None] * len(questions)
        left = list(range(len(questions)))
        self.tally.asked += len(questions)
        for attempt in range(self.tries):
            again = []
            replies = self._replies([questions[index] for index in left], attempt)
            for index, reply in zip(left, replies, strict=True):
                found[index] = None if reply.text is None else read(reply.text)
                if found[index] is None and (reply.failed or attempt + 1 == self.tries):
                    self._count(reply)
                elif found[index] is None:
                    again.append(index)
            if not again:
                break
            left = again
        return found

    def _count(self, reply: Reply) -> None:
        if reply.failed:
            self.tally.failed += 1
            self.tally.reason = reply.reason
        elif reply.reason == REFUSED or keyword_refusal(reply.text or ""):
            self.tally.refused += 1
        else:
            self.tally.unusable += 1

    def _replies(self, questions: Sequence[Question], attempt: int) -> list[Reply]:
        seeds = [
            random.Random(f"{self.seed}.{question.label}.{attempt}").getrandbits(31)
            for question in questions
        ]
        keys = [self._key(*pair) for pair in zip(questions, seeds, strict=True)]
        replies = {key: reply for key in keys if (reply := self.kept.get(key)) is not None}
        new = {key: index for index, key in enumerate(keys) if key not in replies}
        places = list(new.values())
        asked = [list(questions[place].messages) for place in places]
        sent = [seeds[place] for place in places]
        # Closed even where an error ends the loop: else its workers would go on waiting.
        with closing(ask_all(self.endpoint, asked, self.workers, sent)) as coming:
            for index, reply in coming:
                replies[keys[places[index]]] = reply
                if not reply.failed:
                    self.kept.add(keys[places[index]], reply)
                self._require_life(reply)
        if places and not self._answered:
            self._stop(replies[keys[places[-1]]])
        return [replies[key] for key in keys]

    def _key(self, question: Question, seed: int) -> str:
        endpoint = self.endpoint
        options = {"seed": seed} | dict(endpoint.options)
        # The label is there for those whose server takes no seed.
        asked = [question.label, list(question.messages), seed]
        return content_hash([endpoint.host, endpoint.model, options, *asked])

    def _require_life(self, reply: Reply) -> None:
        self._answered = self._answered or not reply.failed
        self._failures = self._failures + 1 if reply.failed else 0
        if self._failures >= GIVE_UP_AFTER:
            self._stop(reply)

    def _stop(self, reply: Reply) -> None:
        self._failures = 0
        mistake = f"model {self.endpoint.model} gives no answers: {reply.reason}"
        allowed = "replies so far are kept: ask again when it is up"
        raise InputError(self.endpoint.base_url, mistake, allowed)

    def tell_losses(self, attack: str, tell: Tell | None) -> None:
        """Tells of questions that were lost since the last call, if any were."""
        tally, self.tally = self.tally, Tally()
        if tally.lost:
            line = f"{attack}: {self.endpoint.model}: {tally}; what hung on them stayed as it was"
            tell_or_warn(line, tell)


def tell_or_warn(line: str, tell: Tell | None) -> None:
    """Tells a line; as a warning where nobody listens."""
    if tell is None:
        warnings.warn(line, stacklevel=3)
    else:
        tell(line)


def sampled(endpoint: Endpoint) -> Endpoint:
    """The endpoint with an attacker's sampling; its own options come first."""
    return replace(endpoint, options=SAMPLING | dict(endpoint.options))
