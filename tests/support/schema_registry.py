"""A schema registry for tests: an HTTP server with the requests of Confluent's REST API that read schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

from tests.support.http_server import running


class StubRegistry:
    """`schemas` by id, `subjects` by name and version. `status` answers every request with this status instead."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[tuple[str, int], dict[str, Any]] = {}
        self.status: int | None = None
        self.authorization: str | None = None  # that requests must have
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        self.requests.append(path)
        if self.status is not None:
            return self.status, {"error_code": self.status, "message": "as the test says"}
        if self.authorization is not None and authorization != self.authorization:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        match [unquote(part) for part in urlparse(path).path.strip("/").split("/")]:
            case ["schemas", "ids", id] if int(id) in self.schemas:
                return 200, self.schemas[int(id)]
            case ["schemas", "ids", id]:
                return 404, {"error_code": 40403, "message": f"Schema {id} not found"}
            case ["subjects", name, "versions", version] if (name, int(version)) in self.subjects:
                return 200, {"subject": name, "version": int(version), **self.subjects[name, int(version)]}
            case ["subjects", name, "versions", _]:
                return 404, {"error_code": 40401, "message": f"Subject '{name}' not found"}
        return 404, {"message": "HTTP 404 Not Found"}


@contextmanager
def stub_registry() -> Iterator[StubRegistry]:
    stub = StubRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = stub.answer(self.path, self.headers.get("Authorization"))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}"
    with running(server):
        yield stub


def framed(id: int, payload: bytes) -> bytes:
    """Confluent's wire format."""
    return b"\0" + id.to_bytes(4) + payload
