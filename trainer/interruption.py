"""Interruption: on a stop a run stores its state and ends, between two steps or two tokens. The next trainer resumes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import RetouchError, RetryLater


class Interrupted(RetouchError):
    """The process must stop. Nothing is registered yet."""


def check_stop(stop: threading.Event) -> None:
    """Raises Interrupted if `stop` is set."""
    if stop.is_set():
        raise Interrupted("stopped on request")


@contextmanager
def interrupted_by(stop: threading.Event) -> Iterator[None]:
    """Raises Interrupted for a RetryLater of the block if `stop` is set: a registry that is away ends its calls at a stop."""
    try:
        yield
    except RetryLater as error:
        if not stop.is_set():
            raise
        raise Interrupted(str(error)) from error
