"""One stack per state directory: a file lock that the kernel frees when its holder dies, with the holder's pid written in."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from infra.errors import CannotContinue

#: Somebody who only asks whether a stack runs holds the lock for an instant.
PATIENCE_S = 0.5


class StackLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> None:
        """Raises CannotContinue when another process holds it. A file left by a killed process is taken over."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._try():
            if time.monotonic() > deadline:
                raise CannotContinue(
                    f"a stack runs already in {self.path.parent} (pid {holder(self.path)}): `retouch down` stops it, or set stack.dir elsewhere"
                )
            time.sleep(0.05)

    @property
    def is_held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        """Removes the file while the lock is still held, so that nobody finds a file without a holder."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _try(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, self.path):  # its holder released, and removed, the file that we had opened
                raise BlockingIOError
        except BlockingIOError:
            os.close(file)
            return False
        os.truncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        self._file = file
        return True


def holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, or None."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
            return None
    except FileNotFoundError:
        return None


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
