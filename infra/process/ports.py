"""Free ports for the servers of the local stack."""

from __future__ import annotations

import random
import socket

from infra.errors import CannotContinue

#: Below Linux's range for outgoing connections (32768 and up). Otherwise a client of a server that restarts may get the server's own port as its
#: local one, connect to itself, and block the server's port.
RANGE = range(20_000, 32_000)
ATTEMPTS = 100


def free_port(host: str) -> int:
    """A port without a listener. Raises CannotContinue if ATTEMPTS random ones are taken, or if `host` is not an address of this machine."""
    reason = ""
    for port in random.sample(RANGE, ATTEMPTS):
        reason = why_taken(host, port)
        if not reason:
            return port
    raise CannotContinue(f"no free port on {host} between {RANGE.start} and {RANGE.stop} ({reason})")


def why_taken(host: str, port: int) -> str:
    """Why a server cannot listen on this port; empty if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not matter
        try:
            probe.bind((host, port))
            probe.listen(1)  # two sockets may bind with SO_REUSEADDR, only one may listen
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""
