"""Interruption: a run that is asked to stop ends between two steps, and whatever it had made so far is dropped."""

from __future__ import annotations

import threading

from infra.errors import RetouchError


class Interrupted(RetouchError):
    """The process was asked to stop; nothing is registered."""


def check(stop: threading.Event) -> None:
    """Raise Interrupted when a stop was asked for."""
    if stop.is_set():
        raise Interrupted("asked to stop")
