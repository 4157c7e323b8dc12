"""Connections of the page's server, each of which has its time: uvicorn waits without end for the rest of a request, and counts who waits.

Without this as many open connections as it takes at once, of a probe that never says anything or a reader that never reads, would lock operators out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_WITHIN_S = 20.0


class Patient(H11Protocol):  # type: ignore[misc]  # uvicorn is imported unchecked
    """Closes a connection on which no new request's head is whole `within_s` after it was made or the last answer went out, read or not."""

    within_s = REQUEST_WITHIN_S
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect()

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:  # otherwise the next request was here already
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._forget()
        self._late = self.loop.call_later(self.within_s, self._give_up, self.cycle)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self, last: Any) -> None:
        if self.cycle is last:
            self.transport.abort()


def patient(within_s: float) -> type[Patient]:
    return type("Patient", (Patient,), {"within_s": within_s})
