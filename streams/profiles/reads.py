"""Limits how long a query waits for the profile index: at most READ_S, never beyond its deadline, and not at all while the index is away.

A read that fails gives the reason, as `HistorySearch` does for the history. Different users' failures in a row open a circuit breaker; those of one user do
not, because the fold of one very long history may take longer than READ_S.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from infra.errors import RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from schemas.contexts import RetrievalStatus
from schemas.queries import Query

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A read takes milliseconds, a fold of a long history up to a second. After this the query goes on without the profile, and the fold goes on too.
READ_S = 2.0
#: Users in a row whose reads fail until no query waits, and the first and the longest pause then.
FAILURES = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class ProfileReads:
    """All that read profiles for queries share one, and with it the circuit breaker. `now` is the wall clock, for deadlines."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC), breaker: CircuitBreaker | None = None) -> None:
        self._now = now
        self._breaker = breaker or CircuitBreaker(FIRST_PAUSE_S, LONGEST_PAUSE_S, failures=FAILURES)

    async def bounded(self, query: Query, read: Callable[[], Awaitable[T]]) -> tuple[T | None, RetrievalStatus]:
        """What `read` returns, or None with the reason. Never raises RetryLater."""
        left_s = float("inf") if query.deadline is None else (query.deadline - self._now()).total_seconds()
        if left_s <= 0:
            return None, RetrievalStatus.DEADLINE_PASSED
        if self._breaker.pause_left_s:
            return None, RetrievalStatus.INDEX_AWAY
        try:
            async with asyncio.timeout(min(READ_S, left_s)):
                found = await read()
        except (RetryLater, TimeoutError) as error:
            if isinstance(error, TimeoutError) and left_s < READ_S:  # the deadline was too near to blame the index
                return None, RetrievalStatus.DEADLINE_PASSED
            pause_s = self._breaker.failed(query.key)
            log.warning("the query goes on without a profile", extra={"reason": type(error).__name__, "for_s": pause_s})
            return None, RetrievalStatus.INDEX_AWAY
        self._breaker.succeeded()
        return found, RetrievalStatus.SEARCHED
