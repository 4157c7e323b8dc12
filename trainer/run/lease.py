"""Leases: one trainer runs, and one process writes the versions' transitions.

A file in the state directory separates the processes of one host. Processes on several hosts share a registry only if it is a server
(`registry.tracking_uri` is http); then a lease on Kafka separates them too (`infra.kafka.lease`). Without a broker only the file does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import RetryLater
from infra.process.file_lock import LockHeld, PidLock
from infra.settings import Settings
from schemas.leases import LeaseName
from trainer.interruption import check_stop

if TYPE_CHECKING:
    from infra.kafka.lease import KafkaLease

#: Interval between two attempts to lock the file.
POLL_S = 0.2
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
def awaited_lease(settings: Settings, name: LeaseName, stop: threading.Event, within_s: float | None = None) -> Iterator[Check]:
    """Like `lease`, but stands by while a process of another host holds it. Raises Interrupted if `stop` is set first.

    With `within_s` it also waits for a process of this host, and raises RetryLater with the holder after that time.
    """
    deadline = None if within_s is None else time.monotonic() + within_s

    def wait(shared: KafkaLease) -> None:
        if shared.wait(stop, math.inf if deadline is None else deadline - time.monotonic()):
            return
        check_stop(stop)
        raise RetryLater(shared.busy)

    def wait_for_file(lock: PidLock) -> None:
        while True:
            check_stop(stop)
            try:
                return lock.acquire()
            except LockHeld as error:
                if deadline is None:
                    raise
                if time.monotonic() > deadline:
                    raise RetryLater(str(error)) from error
            stop.wait(POLL_S)

    with _held(settings, name, wait, wait_for_file) as check:
        yield check


@contextmanager
def _held(settings: Settings, name: LeaseName, take: Callable[[KafkaLease], None], take_file: Callable[[PidLock], None] = PidLock.acquire) -> Iterator[Check]:
    """The file's lease and, if hosts share the registry, the one on Kafka, by `take`."""
    with ExitStack() as held:
        held.enter_context(_file_lease(settings, name, take_file))
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
def _file_lease(settings: Settings, name: LeaseName, take: Callable[[PidLock], None]) -> Iterator[None]:
    path = lease_path(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = PidLock(path, lambda pid: f"another {name} is running (pid {pid}, {path}); wait for it or stop it")
    take(lock)
    try:
        yield
    finally:
        lock.release()
