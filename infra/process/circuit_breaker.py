"""A circuit breaker: after failures it stops the calls to a dependency for a pause, then lets one trial call through.

Not a library: those read the wall clock, which the simulation replaces, or wrap functions and do not return how long to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from infra.errors import DependencyBlocked, DependencyUnavailable, RetryLater
from infra.telemetry.metrics import BREAKER_STATE, RetryReason


class CircuitBreaker:
    """Opens for `open_s` after `failures` failures in a row, or at once if the dependency refuses everything (DependencyBlocked).

    Each failed trial doubles the pause, up to `longest_s`; a success closes it. All failures of one key in a row count as one, so one user whose calls always
    fail does not open it for the others. Each failure without a key counts.

    `call` is for callers that retry, `pause_left_s`, `failed` and `succeeded` are for callers that work without the dependency.
    `now` is a monotonic clock in seconds. With `endpoint`, its state is a metric.
    """

    def __init__(self, open_s: float, longest_s: float, *, failures: int = 1, endpoint: str | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._first_open_s = self._open_s = open_s
        self._longest_s = longest_s
        self._limit = failures
        self._endpoint = endpoint
        self._now = now
        self._failures: list[Hashable | None] = []  # keys of the failures in a row
        self._why, self._cause = "", ""  # of the last failure
        self._open_until: float | None = None
        self._has_trial = False

    @property
    def is_open(self) -> bool:
        """True until a call has succeeded, also after the pause."""
        return self._open_until is not None

    @property
    def pause_left_s(self) -> float:
        """Seconds until the next trial; 0 if a call may be made now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._now())

    def failed(self, key: Hashable | None = None, *, opens: bool = False) -> float:
        """Counts a failure; with `opens` it opens the breaker at once. Returns the length of the pause that begins, 0 if the breaker stays closed."""
        if key is None or key not in self._failures:
            self._failures = [*self._failures, key][-self._limit :]
        if self._open_until is not None:
            self._open_s = min(2 * self._open_s, self._longest_s)
        elif len(self._failures) < self._limit and not opens:
            return 0.0
        self._open_until = self._now() + self._open_s
        self._show(1)
        return self._open_s

    def succeeded(self) -> None:
        if self._open_until is not None:
            self._show(0)
        self._failures = []
        self._open_until = None
        self._open_s = self._first_open_s

    @contextmanager
    def call(self, key: Hashable | None = None) -> Iterator[None]:
        """Wraps one call. While the breaker is open it raises DependencyUnavailable without a call; `after_s` is the time to wait: until
        the next trial, or a quarter of the pause during one. A trial may last as long as a pause, and thousands of callers may wait.

        RetryLater or TimeoutError from inside is a failure of `key`; DependencyUnavailable counts as a failure without a key. Any other error is an answer of
        the dependency, so a success.
        """
        is_trial = self._begin_trial()
        try:
            yield
        except (RetryLater, TimeoutError) as error:
            if is_trial or not self.is_open:  # a call that began before the breaker opened does not lengthen the pause
                self._why, self._cause = str(error), getattr(error, "cause", "")
                self.failed(None if isinstance(error, DependencyUnavailable) else key, opens=isinstance(error, DependencyBlocked))
            raise
        except Exception:
            self.succeeded()
            raise
        else:
            self.succeeded()
        finally:
            if is_trial:
                self._has_trial = False
                self._show(1 if self.is_open else 0)

    def _begin_trial(self) -> bool:
        if self._open_until is None:
            return False
        left_s = self.pause_left_s
        if left_s > 0 or self._has_trial:
            raise self._rejection(self._open_s / 4 if self._has_trial else max(left_s, self._first_open_s / 4))
        self._has_trial = True
        self._show(0.5)
        return True

    def _rejection(self, after_s: float) -> DependencyUnavailable:
        return DependencyUnavailable(f"the endpoint fails, calls to it pause: {self._why}", after_s, RetryReason.BREAKER, self._cause)

    def _show(self, state: float) -> None:
        if self._endpoint:
            BREAKER_STATE.set(state, endpoint=self._endpoint)
