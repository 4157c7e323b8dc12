"""Interruption: on a stop a run stores its state and ends, between two steps or two tokens. The next trainer resumes it."""

from __future__ import annotations

import threading

from infra.errors import RetouchError


class Interrupted(RetouchError):
    """The process must stop. Nothing is registered yet."""


def check_stop(stop: threading.Event) -> None:
    """Raises Interrupted if `stop` is set."""
    if stop.is_set():
        raise Interrupted("stopped on request")
