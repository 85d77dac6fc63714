"""A chat completions endpoint on this machine that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the server does with one request: waits, then sends a status, headers and a body."""

    body: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0


@dataclass
class Server:
    """The server's address and the requests that it saw."""

    url: str
    bodies: list[dict[str, Any]]
    headers: list[dict[str, str]]


def said(text: str | None, finish: str = "stop", **message: Any) -> Answer:
    """A well-formed answer with this text."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return Answer(json.dumps({"choices": [choice]}))


Respond = Callable[[int, str], Answer]
"""From the number of the request, from 0, and the text asked to the answer."""


@contextmanager
def chat_server(respond: Respond) -> Iterator[Server]:
    """Runs the server for the time of a block."""
    found = Server("", [], [])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(found.bodies)
                found.bodies.append(body)
                found.headers.append({"path": self.path, **dict(self.headers)})
            answer = respond(number, body["messages"][-1]["content"])
            time.sleep(answer.wait)
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body.encode())
            except OSError:
                pass  # the client stopped waiting

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
