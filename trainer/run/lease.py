"""Leases: only one trainer and one promoter work in a state directory.

A lease does not separate processes with different state directories and one registry, because MLflow has no compare-and-set. Deploy one trainer and one
promoter (`infra.registry.client`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.process.file_lock import PidLock
from infra.settings import Settings


def lease_path(settings: Settings) -> Path:
    """The lease of the trainer."""
    return settings.stack.dir / "trainer.lock"


def promoter_lease_path(settings: Settings) -> Path:
    """The lease of the process that writes transitions and moves aliases: the promoter, or a command if no promoter runs."""
    return settings.stack.dir / "promoter.lock"


def hydra_lease_path(settings: Settings) -> Path:
    """The lease of the process that writes transitions of HYDRA's versions: the trainer after a run, or a command."""
    return settings.stack.dir / "promoter-hydra.lock"


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Holds `path`, which is named after the process kind, for the block. Raises LockHeld with the process id if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = PidLock(path, lambda pid: f"another {path.stem} is running (pid {pid}, {path}); wait for it or stop it")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
