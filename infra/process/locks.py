"""Locks between processes, on files, that nobody waits for without end."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import RetryLater

RETRY_S = 0.2


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock file alone; the system frees it when the holder dies. Blocks. Raises RetryLater after `timeout_s`, OSError for the file's own errors."""
    deadline = time.monotonic() + timeout_s
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RetryLater(f"another process has held {path} for {timeout_s:g} s") from None
                time.sleep(RETRY_S)
        yield
