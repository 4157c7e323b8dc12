"""Memory and processor time of a process and all its descendants."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Self

import psutil

SAMPLE_S = 2.0


class MemoryWatch:
    """Samples the proportional set size of this process tree in a thread: shared pages count once."""

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
    """Processor seconds of `root`, its descendants, and its ended children. On a busy machine a better measure of work than seconds."""
    own = root.cpu_times()
    return float(own.children_user + own.children_system + sum(_cpu_s(process) for process in [root, *root.children(recursive=True)]))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of `root` and all its descendants; resident set size if the system has no proportional one."""
    return sum(_bytes(process) for process in [root, *root.children(recursive=True)])


@dataclass(frozen=True)
class TreeUse:
    """Of a process and all its descendants: proportional and resident set size in bytes, open file descriptors, threads."""

    pss_bytes: int
    rss_bytes: int
    open_files: int
    threads: int


def tree_use(root: psutil.Process) -> TreeUse:
    """What the tree uses now. Processes that have ended count with 0; where the system has no proportional set size, it is the resident one."""
    uses = [_use(process) for process in [root, *root.children(recursive=True)]]
    return TreeUse(*(sum(getattr(use, name) for use in uses) for name in TreeUse.__dataclass_fields__))


def _use(process: psutil.Process) -> TreeUse:
    try:
        memory = process.memory_full_info()
        return TreeUse(int(getattr(memory, "pss", 0) or memory.rss), int(memory.rss), process.num_fds(), process.num_threads())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return TreeUse(0, 0, 0, 0)


def _bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended
        return 0
