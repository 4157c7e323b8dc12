"""An HTTP server on loopback with OpenAI's chat completions API. The test scripts its answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.http_server import running


@dataclass(frozen=True)
class ScriptedAnswer:
    """The answer to one request. A dict is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def completion(*texts: str | None, prompt_tokens: int = 7, completion_tokens: int = 3) -> ScriptedAnswer:
    """One choice for each text."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}
    choices = [{"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for index, text in enumerate(texts)]
    return ScriptedAnswer({"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage})


def failure(status: int, **headers: str) -> ScriptedAnswer:
    return ScriptedAnswer({"error": {"message": "no", "type": "server_error"}}, status, {name.replace("_", "-"): value for name, value in headers.items()})


Respond = Callable[[dict[str, Any]], ScriptedAnswer]


class OpenAiServer(ThreadingHTTPServer):
    """`requests`, `keys` and `traceparents` have the bodies, Authorization and traceparent headers in order of arrival."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, respond: Respond, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.traceparents: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignored: tests close connections."""


class _Handler(BaseHTTPRequestHandler):
    server: OpenAiServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.traceparents.append(self.headers.get("traceparent"))
        answer = self.server.respond(body)
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """No log."""


@contextmanager
def serving(respond: Respond, port: int = 0) -> Iterator[OpenAiServer]:
    server = OpenAiServer(respond, port)
    with running(server):
        yield server


def scripted(*answers: ScriptedAnswer) -> Respond:
    """Returns each answer once, then the last one again."""
    left = list(answers)
    lock = threading.Lock()

    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return respond
