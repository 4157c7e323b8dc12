"""Ports for our own servers."""

from __future__ import annotations

import random
import socket

from infra.errors import CannotContinue

#: Below Linux's range for outgoing connections (32768 and up): a client that tries to reach a server which is just restarting
#: would sooner or later be given the server's own port, connect to itself, and keep the server from coming back.
RANGE = range(20_000, 32_000)
ATTEMPTS = 100


def free_port(host: str) -> int:
    """A port that nobody listens on now. Raises CannotContinue when many random ones are taken, or `host` is not ours."""
    reason = ""
    for port in random.sample(RANGE, ATTEMPTS):
        reason = why_taken(host, port)
        if not reason:
            return port
    raise CannotContinue(f"no free port on {host} between {RANGE.start} and {RANGE.stop} ({reason})")


def why_taken(host: str, port: int) -> str:
    """Why a server could not listen there; empty when it could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not matter
        try:
            probe.bind((host, port))
            probe.listen(1)  # two sockets may bind with SO_REUSEADDR, only one may listen
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""
