"""Interruption: a run that is asked to stop stores where it is and ends, between two steps or two tokens; the next start takes it up."""

from __future__ import annotations

import threading

from infra.errors import RetouchError


class Interrupted(RetouchError):
    """The process was asked to stop; nothing is registered yet."""


def check(stop: threading.Event) -> None:
    """Raise Interrupted when a stop was asked for."""
    if stop.is_set():
        raise Interrupted("asked to stop")
