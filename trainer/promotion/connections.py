"""Time limit for connections of the page's server. uvicorn alone waits without end for the rest of a request, and counts waiting connections.

Without it, as many silent connections as uvicorn accepts would keep operators out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

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


def time_limited(within_s: float) -> type[TimeLimitedProtocol]:
    return type("TimeLimitedProtocol", (TimeLimitedProtocol,), {"within_s": within_s})
