"""Leases: one trainer and one promoter at a time in a state directory.

The kernel holds the lock on the file and drops it when its process dies, so a stale file never blocks anybody; the pid inside is for people.

It binds the processes that share the directory, on one machine or on a file system whose `flock` reaches across them. Processes with
directories of their own but one registry are not kept apart: MLflow has no compare-and-set to build that on, so deploy one (`infra.registry.client`).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import CannotContinue
from infra.settings import Settings


class Held(CannotContinue):
    """Another process holds the lease."""


#: Whoever asks whether the lease is held holds it for a moment.
TRIES, RETRY_S = 5, 0.02


def lease_path(settings: Settings) -> Path:
    """Where the one trainer of a state directory holds its lease."""
    return settings.stack.dir / "trainer.lock"


def promoter_lease_path(settings: Settings) -> Path:
    """Where whoever writes transitions and moves aliases holds the lease: the promoter, or a command where none runs."""
    return settings.stack.dir / "promoter.lock"


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold `path`, named after the part that holds it, for the block. Raises Held with the holder's pid when another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    while True:
        tries += 1
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            if tries < TRIES:
                time.sleep(RETRY_S)
                continue
            raise Held(f"another {path.stem} is at work (pid {holder}, {path}); wait for it or stop it") from None
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


def is_held(path: Path) -> bool:
    """Whether somebody holds it now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
