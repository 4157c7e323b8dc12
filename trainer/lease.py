"""The lease: one trainer at a time in a state directory.

The kernel holds the lock on the file and drops it when its process dies, so a stale file never blocks anybody; the pid inside is for people.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import CannotContinue
from infra.settings import Settings


def lease_path(settings: Settings) -> Path:
    """Where the one trainer of a state directory holds its lease."""
    return settings.stack.dir / "trainer.lock"


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold `path` for the block. Raises CannotContinue with the holder's pid when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            raise CannotContinue(f"another trainer is at work (pid {holder}, {path}); wait for it or stop it") from None
        if _still_there(descriptor, path):
            break
        os.close(descriptor)  # its holder removed it between our open and our lock
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
