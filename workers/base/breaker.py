"""A circuit breaker: an endpoint that fails again and again is left alone for a while, then tried with one call.

By hand: the libraries for it count by the wall clock, which our tests move, or wrap functions rather than tell a caller when to come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import RetryLater
from infra.telemetry.metrics import BREAKER_STATE, RetryReason
from workers.runtime.clock import Clock, SystemClock

#: A breaker that stays open doubles its time up to this multiple.
LONGEST = 8


class Breaker:
    """Closed, it lets everything through; `failures` in a row open it for `open_s`; then one call at a time tries, and a success closes it."""

    def __init__(self, failures: int, open_s: float, clock: Clock | None = None, *, endpoint: str = "base") -> None:
        self._endpoint = endpoint
        self._limit = failures
        self._first_open_s = self._open_s = open_s
        self._clock = clock or SystemClock()
        self._failed = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call. Raises RetryLater, without a call, while the breaker is open; `after_s` says for how long.

        A RetryLater from inside counts as a failure, and so does a call that was cut off by its own timeout; anything else as an answer.
        """
        tries = self._let_through()
        try:
            yield
        except (RetryLater, TimeoutError):
            self._fail(tried=tries)
            raise
        except Exception:
            self._succeed()
            raise
        else:
            self._succeed()
        finally:
            if tries:
                self._trying = False

    def _let_through(self) -> bool:
        """Whether this call tries an endpoint that was left alone."""
        if self._open_until is None:
            return False
        left_s = self._open_until - self._clock.monotonic()
        if left_s > 0 or self._trying:
            raise RetryLater("the endpoint failed too often and is left alone", max(left_s, self._first_open_s / 4), RetryReason.BREAKER)
        self._trying = True
        BREAKER_STATE.set(0.5, endpoint=self._endpoint)
        return True

    def _fail(self, *, tried: bool) -> None:
        self._failed += 1
        if tried:
            self._open_s = min(2 * self._open_s, LONGEST * self._first_open_s)
        if tried or (self._open_until is None and self._failed >= self._limit):
            self._open_until = self._clock.monotonic() + self._open_s
            BREAKER_STATE.set(1, endpoint=self._endpoint)

    def _succeed(self) -> None:
        if self._open_until is not None:
            BREAKER_STATE.set(0, endpoint=self._endpoint)
        self._failed = 0
        self._open_until = None
        self._open_s = self._first_open_s
