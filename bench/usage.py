"""What a process and everything it started use: memory, sampled while it runs, and processor time."""

from __future__ import annotations

import threading
from typing import Self

import psutil

SAMPLE_S = 2.0


class MemoryWatch:
    """Samples the proportional set size of this process's tree in a thread: pages that processes share count once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    @property
    def peak_mb(self) -> int | None:
        return round(self.peak_bytes / 2**20) or None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, tree_bytes(psutil.Process()))


def tree_cpu_s(root: psutil.Process) -> float:
    """Processor seconds of `root`, its descendants, and those of its children that have ended: on a busy machine the truer measure of work."""
    own = root.cpu_times()
    return float(own.children_user + own.children_system + sum(_cpu_s(process) for process in [root, *root.children(recursive=True)]))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of `root` and all its descendants; resident size where the system tells no better."""
    return sum(_bytes(process) for process in [root, *root.children(recursive=True)])


def _bytes(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
        return int(getattr(found, "pss", 0) or found.rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it ended meanwhile
        return 0
