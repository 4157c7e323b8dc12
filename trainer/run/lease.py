"""Leases: one trainer runs, and one process writes the versions' transitions.

A file in the state directory separates the processes of one host. Processes on several hosts share a registry only if it is a server
(`registry.tracking_uri` is http); then a lease on Kafka separates them too (`infra.kafka.lease`). Without a broker only the file does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from infra.process.file_lock import PidLock
from infra.settings import Settings
from schemas.leases import LeaseName
from trainer.interruption import Interrupted

if TYPE_CHECKING:
    from infra.kafka.lease import KafkaLease

#: Raises CannotContinue if the lease is lost.
Check = Callable[[], None]


def lease_path(settings: Settings, name: LeaseName = LeaseName.TRAINER) -> Path:
    """The lease's file on this host."""
    return settings.stack.dir / f"{name}.lock"


def is_shared(settings: Settings) -> bool:
    """Whether processes on other hosts may use the same registry, so that the lease must be on Kafka."""
    return settings.tracking_uri.startswith("http") and settings.kafka.bootstrap_servers is not None


@contextmanager
def lease(settings: Settings, name: LeaseName) -> Iterator[Check]:
    """Holds the lease for the block. Raises LockHeld with the holder if another process holds it, CannotContinue if the broker does not answer."""
    with _held(settings, name, lambda shared: shared.acquire()) as check:
        yield check


@contextmanager
def awaited_lease(settings: Settings, name: LeaseName, stop: threading.Event) -> Iterator[Check]:
    """Like `lease`, but stands by while a process of another host holds it. Raises Interrupted if `stop` is set first."""

    def wait(shared: KafkaLease) -> None:
        if not shared.wait(stop):
            raise Interrupted("stopped while standing by")

    with _held(settings, name, wait) as check:
        yield check


@contextmanager
def _held(settings: Settings, name: LeaseName, take: Callable[[KafkaLease], None]) -> Iterator[Check]:
    """The file's lease and, if hosts share the registry, the one on Kafka, by `take`."""
    with ExitStack() as held:
        held.enter_context(_file_lease(settings, name))
        if not is_shared(settings):
            yield _unchecked
            return
        from infra.kafka.lease import KafkaLease

        shared = held.enter_context(KafkaLease(settings, name))
        take(shared)
        yield shared.check


def _unchecked() -> None:
    """The kernel keeps a file's lock as long as its process lives."""


@contextmanager
def _file_lease(settings: Settings, name: LeaseName) -> Iterator[None]:
    path = lease_path(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = PidLock(path, lambda pid: f"another {name} is running (pid {pid}, {path}); wait for it or stop it")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
