"""Leases: one trainer and one promoter at a time in a state directory.

A lease binds the processes that share the directory. Processes with directories of their own but one registry are not kept apart: MLflow has
no compare-and-set to build that on, so deploy one (`infra.registry.client`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.process.file_lock import PidLock
from infra.settings import Settings


def lease_path(settings: Settings) -> Path:
    """Where the one trainer of a state directory holds its lease."""
    return settings.stack.dir / "trainer.lock"


def promoter_lease_path(settings: Settings) -> Path:
    """The lease of the process that writes transitions and moves aliases: the promoter, or a command if no promoter runs."""
    return settings.stack.dir / "promoter.lock"


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Hold `path`, named after the part that holds it, for the block. Raises LockHeld with the holder's process id if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = PidLock(path, lambda pid: f"another {path.stem} is at work (pid {pid}, {path}); wait for it or stop it")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
