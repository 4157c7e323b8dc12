"""Locks between processes, on files. The kernel frees a lock when its holder dies, so a file that is left behind blocks no process.

A lock is `flock(2)`, taken by the `filelock` library. It binds the processes of one machine, and of several whose file system shares `flock`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from infra.errors import CannotContinue, RetryLater

#: `holder` shares the lock for an instant, so an acquirer tries again for this long.
PATIENCE_S = 0.5


class LockHeld(CannotContinue):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock for the block. Waits at most `timeout_s` for it, then raises RetryLater. The file stays."""
    lock = _lock(path)
    try:
        lock.acquire(timeout_s)
    except Timeout:
        raise RetryLater(f"another process has held {path} for {timeout_s:g} s") from None
    try:
        yield
    finally:
        lock.release()


class PidLock:
    """A lock whose file holds the process id of its holder. Held from `acquire` to `release`, or to the end of the process.

    `busy` makes the error text from the holder's process id.
    """

    def __init__(self, path: Path, busy: Callable[[int | str], str]) -> None:
        self.path = path
        self._busy = busy
        self._lock = _lock(path)

    def acquire(self) -> None:
        """Raises LockHeld if another process holds the lock. Takes over the file of a killed process."""
        try:
            self._lock.acquire(PATIENCE_S)
        except Timeout:
            raise LockHeld(self._busy(_pid(self.path) or "unknown")) from None
        self.path.write_text(f"{os.getpid()}\n")

    @property
    def is_held(self) -> bool:
        return self._lock.is_locked

    def release(self) -> None:
        """Removes the file while the lock is still held, so that no file remains without a holder."""
        if self.is_held:
            self.path.unlink(missing_ok=True)
            self._lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock. Does not wait. Raises CannotContinue if the file cannot be read."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two callers do not take each other for a holder
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise CannotContinue(f"cannot read {path}: {error.strerror or error}; it must be a file that this user may read, or be absent") from error
    return False


def holder(path: Path) -> int | None:
    """The process id of the process that holds a PidLock; None if no process does. Raises CannotContinue if the file cannot be read."""
    return _pid(path) if is_locked(path) else None


def _lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False, fallback_to_soft=False)  # any thread may release it; no flock is an error


def _pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):  # released, or not yet written
        return None
