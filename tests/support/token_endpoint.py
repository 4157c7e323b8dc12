"""A token endpoint for the grant client_credentials. Its tokens are unsigned JWTs, which the broker of `tests.support.secure_broker` takes."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from tests.support.http_server import running

CLIENT, SECRET = "retouch", "right secret: %&=ü"


def unsigned_jwt(lifetime_s: float, subject: str = CLIENT) -> str:
    now = time.time()
    parts: tuple[dict[str, Any], ...] = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + lifetime_s})
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), ""])


class TokenEndpoint(ThreadingHTTPServer):
    """`status` and `answer` replace its answer. The next `failures` requests get 503. With `byte_pause_s` it answers byte by byte.

    `forms` are the requests of the right client.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lifetime_s = 3600.0
        self.status = 200
        self.answer: bytes | None = None
        self.byte_pause_s = 0.0
        self.failures = 0
        self.forms: list[dict[str, str]] = []
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/token"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: TokenEndpoint

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        status, body = self._answer({name: value for name, (value,) in form.items()})
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        if not self.server.byte_pause_s:
            self.wfile.write(head + body)
            return
        for byte in head + body:
            self.wfile.write(bytes((byte,)))
            time.sleep(self.server.byte_pause_s)

    def _answer(self, form: dict[str, str]) -> tuple[int, bytes]:
        if self.server.failures:
            self.server.failures -= 1
            return 503, b""
        if self.server.answer is not None or self.server.status != 200:
            return self.server.status, self.server.answer or b""
        basic = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        if tuple(map(unquote_plus, basic.split(":"))) != (CLIENT, SECRET):
            return 401, b'{"error": "invalid_client"}'
        if form["grant_type"] != "client_credentials":
            return 400, b'{"error": "unsupported_grant_type"}'
        self.server.forms.append(form)
        lifetime_s = self.server.lifetime_s
        return 200, json.dumps({"access_token": unsigned_jwt(lifetime_s), "token_type": "Bearer", "expires_in": lifetime_s}).encode()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the terminal."""


@contextmanager
def token_endpoint(certificate: tuple[Path, Path] | None = None) -> Iterator[TokenEndpoint]:
    """A running one; with the files of a certificate and its key, over TLS."""
    endpoint = TokenEndpoint()
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        endpoint.socket = context.wrap_socket(endpoint.socket, server_side=True, do_handshake_on_connect=False)
        endpoint.scheme = "https"
    with running(endpoint):
        yield endpoint


def closed_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
