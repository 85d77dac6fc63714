"""Many questions to one endpoint at once, answers as they come, an end where none comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from lpa_interp.endpoint import Endpoint, Reply, ask

GIVE_UP_AFTER = 8
"""Questions in a row that got no answer, each after all its tries: the endpoint is down."""


def ask_all(
    endpoint: Endpoint, conversations: Sequence[list[dict[str, str]]], workers: int = 4
) -> Iterator[tuple[int, Reply]]:
    """The index of each conversation with its reply, as soon as there is one.

    After `GIVE_UP_AFTER` failures in a row nothing more is asked: the rest is given as failed,
    with that reason. Closing the iterator, or an interrupt, ends all waiting.

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
                running[pool.submit(ask, endpoint, messages, stop.wait)] = index
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
