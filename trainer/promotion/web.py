"""Runs the HTTP server of `api` in a thread of the promoter's process.

Connections have a time limit, because uvicorn alone waits without end for the rest of a request. As many silent connections as it accepts would keep
operators out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from infra.errors import BadSetting, CannotContinue
from infra.settings import Settings
from infra.urls import is_loopback
from trainer.promotion.api import create_app, hostname
from trainer.promotion.operator_commands import OperatorApi

log = logging.getLogger(__name__)


REQUEST_WITHIN_S = 20.0


class TimeLimitedProtocol(H11Protocol):  # type: ignore[misc]  # uvicorn is imported unchecked
    """Closes a connection if no complete request head arrives within `within_s` after it opened or after the last reply, read or not."""

    within_s = REQUEST_WITHIN_S
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._start_timer()

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:  # otherwise the next request has arrived already
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(self.within_s, self._abort, self.cycle)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _abort(self, last: Any) -> None:
        if self.cycle is last:
            self.transport.abort()


START_WITHIN_S, CLOSE_WITHIN_S = 20.0, 5.0
MAX_CONNECTIONS = 128
#: The loopback address by which this machine reaches a server that listens on all addresses.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def serve(settings: Settings, promoter: OperatorApi, stop: threading.Event, request_within_s: float = REQUEST_WITHIN_S) -> Server:
    """Serve at promotion.host and port; returns once requests are answered. Sets `stop` if the server ends by itself: operators could no longer connect.

    A connection without a new request for `request_within_s` is closed. Raises BadSetting if other machines could connect and there is no
    operator token, CannotContinue if the port is taken.
    """
    host, secret = settings.promotion.host, settings.promotion.operator_token
    is_local = is_loopback(_url(host, 0))
    if secret is None and not is_local:
        raise BadSetting(f"promotion.host={host!r}: other machines could promote: set promotion.operator_token, or 127.0.0.1")
    token = secret.get_secret_value() if secret else None
    app = create_app(promoter, token=token, hosts=allowed_hosts(settings), readers_need_token=not is_local)
    listening = _listen(host, settings.promotion.port)
    quiet = {"log_config": None, "log_level": "warning", "access_log": False}
    bounds = {"limit_concurrency": MAX_CONNECTIONS, "timeout_graceful_shutdown": 2}
    protocol = type("TimeLimitedProtocol", (TimeLimitedProtocol,), {"within_s": request_within_s})
    config = uvicorn.Config(app, http=protocol, server_header=False, lifespan="off", ws="none", **quiet, **bounds)
    return Server(uvicorn.Server(config), listening, stop)


class Server:
    """A server that runs until `close`. Raises CannotContinue if it does not start in time."""

    def __init__(self, server: Any, listening: socket.socket, stop: threading.Event) -> None:
        host, port = listening.getsockname()[:2]
        self.url = _url(LOOPBACK.get(host, host), port)
        self._server, self._listening, self._stop = server, listening, stop
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise CannotContinue(f"the page could not be served at {self.url}")
            time.sleep(0.01)
        log.info("the page is served", extra={"url": self.url})

    def close(self) -> None:
        """Finish open requests, within a time limit. May be called again."""
        self._server.should_exit = True
        self._thread.join(CLOSE_WITHIN_S)
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listening])
        finally:
            if not self._server.should_exit:
                log.error("the page's server ended by itself", extra={"url": self.url})
                self._stop.set()


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """The names that a request's `Host` may hold: loopback, the bound address, and the host of promotion.url."""
    public = hostname(urlsplit(settings.promotion.url or "").netloc)
    return frozenset({"localhost", "127.0.0.1", "::1", settings.promotion.host.lower(), public} - {""})


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128)
    except OSError as error:
        raise CannotContinue(f"promotion.port: cannot listen on {host}:{port}: {error.strerror or error}") from None
