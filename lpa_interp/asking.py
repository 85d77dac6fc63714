"""Many questions to one endpoint at once, answers as they come, an end where none comes."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace

from lpa_interp.endpoint import Endpoint, Reply, ask

GIVE_UP_AFTER = 8
"""Questions in a row that got no answer, each after all its tries: the endpoint is down."""


def ask_all(
    endpoint: Endpoint,
    conversations: Sequence[list[dict[str, str]]],
    workers: int = 4,
    seeds: Sequence[int] | None = None,
) -> Generator[tuple[int, Reply], None, None]:
    """The index of each conversation with its reply, as soon as there is one.

    After `GIVE_UP_AFTER` failures in a row nothing more is asked: the rest is given as failed,
    with that reason. Closing the iterator, or an interrupt, ends all waiting.

    Args:
        endpoint: Whom to ask.
        conversations: What to ask, each in the roles of the chat completions interface.
        workers: Questions asked at the same time.
        seeds: One for each conversation, sent as ``seed`` in its body unless the endpoint's
            options have one (None takes it out); without them none is sent.

    Raises:
        InputError: No request can succeed (`lpa_interp.endpoint.ask`).
    """
    stop = threading.Event()
    left = iter(enumerate(conversations))
    failures = 0
    pool = ThreadPoolExecutor(workers)
    running: dict[Future[Reply], int] = {}
    try:
        while True:
            while len(running) < workers and failures < GIVE_UP_AFTER:
                index, messages = next(left, (None, None))
                if index is None or messages is None:
                    break
                asked = endpoint if seeds is None else _seeded(endpoint, seeds[index])
                running[pool.submit(ask, asked, messages, stop.wait)] = index
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                reply = future.result()
                failures = failures + 1 if reply.failed else 0
                yield running.pop(future), reply
        for index, _ in left:
            yield index, Reply(None, "not asked: the endpoint gave no answers", failed=True)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _seeded(endpoint: Endpoint, seed: int) -> Endpoint:
    return replace(endpoint, options={"seed": seed} | dict(endpoint.options))
