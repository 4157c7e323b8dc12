"""Processor time during a measurement, of each measured process and of everything else on the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

#: Idle states; all other fields of `psutil.cpu_times` are work.
IDLE = ("idle", "iowait")


@dataclass(frozen=True)
class CpuUse:
    """Processor seconds by process. `others` is everything else on the machine, including the kernel's work for our processes."""

    seconds: float
    cores: int
    by_process: Mapping[str, float]
    others: float

    @property
    def busy_share(self) -> float:
        """Of all cores."""
        return (sum(self.by_process.values()) + self.others) / (self.seconds * self.cores) if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        share = {name: round(used_s / self.seconds, 3) if self.seconds else 0.0 for name, used_s in (*self.by_process.items(), ("others", self.others))}
        return {"seconds": round(self.seconds, 2), "cores": self.cores, "busy_share": round(self.busy_share, 3), "cores_used": share}


class CpuMeter:
    """Counts from its creation, by pid. An ended process counts with 0."""

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        self._pids = {name: pid for name, pid in pids.items() if pid is not None}
        self._began_s = time.monotonic()
        self._before = {name: _process_s(pid) for name, pid in self._pids.items()}
        self._machine_before = _machine_s()

    def read(self) -> CpuUse:
        by_process = {name: max(0.0, _process_s(pid) - self._before[name]) for name, pid in self._pids.items()}
        machine = _machine_s() - self._machine_before
        return CpuUse(time.monotonic() - self._began_s, os.cpu_count() or 1, by_process, max(0.0, machine - sum(by_process.values())))


def _process_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _machine_s() -> float:
    times = psutil.cpu_times()._asdict()
    return float(sum(used_s for name, used_s in times.items() if name not in (*IDLE, "guest", "guest_nice")))
