"""Blocking calls that can be abandoned: each runs in a daemon thread of its own, which neither its caller nor the end of the process waits for."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from infra.errors import RetryLater

P = ParamSpec("P")
T = TypeVar("T")

#: Maximum time until a stop is noticed.
SLICE_S = 0.1
#: How long a call may still take after a stop. A store that answers gets the last writes of a process that stops.
AFTER_STOP_S = 0.5


class DaemonThreads(concurrent.futures.Executor):
    """An executor with a daemon thread for each call. Without a bound: for few calls at once."""

    def __init__(self, name: str) -> None:
        """`name`: of the threads."""
        self._name = name

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(call(*args, **kwargs))
            except BaseException as error:  # raised where the result is read
                done.set_exception(error)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        return done


def until_stopped(call: Callable[[], T], stop: threading.Event, name: str) -> T:
    """The call's result, or its error. Raises RetryLater if the call has not ended AFTER_STOP_S after a stop.

    An abandoned call may still complete before the process ends. `name`: what the call waits for, such as "the model registry".
    """
    done = DaemonThreads(name).submit(call)
    while not stop.is_set() and not concurrent.futures.wait([done], SLICE_S).done:
        pass
    if not concurrent.futures.wait([done], AFTER_STOP_S).done:
        raise RetryLater(f"stopped before {name} answered")
    return done.result()
