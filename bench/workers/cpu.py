"""Processor time during a measurement, by part, and of everything else on the machine: whether a figure was taken in peace."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

#: The processor's own idle states; all other fields of `psutil.cpu_times` are work.
IDLE = ("idle", "iowait")


@dataclass(frozen=True)
class CpuUse:
    """Processor seconds, by part. `others` is what the machine did besides: other people's work, and the kernel's for ours."""

    seconds: float
    cores: int
    by_part: Mapping[str, float]
    others: float

    @property
    def busy_share(self) -> float:
        """Of all cores."""
        return (sum(self.by_part.values()) + self.others) / (self.seconds * self.cores) if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        share = {name: round(spent / self.seconds, 3) if self.seconds else 0.0 for name, spent in (*self.by_part.items(), ("others", self.others))}
        return {"seconds": round(self.seconds, 2), "cores": self.cores, "busy_share": round(self.busy_share, 3), "cores_used": share}


class CpuMeter:
    """Counts from `start` on. Parts are pids; one that has ended counts as far as it was seen last."""

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        self._parts = {name: pid for name, pid in pids.items() if pid is not None}
        self._began_s = time.monotonic()
        self._before = {name: _process_s(pid) for name, pid in self._parts.items()}
        self._machine_before = _machine_s()

    def read(self) -> CpuUse:
        by_part = {name: max(0.0, _process_s(pid) - self._before[name]) for name, pid in self._parts.items()}
        machine = _machine_s() - self._machine_before
        return CpuUse(time.monotonic() - self._began_s, os.cpu_count() or 1, by_part, max(0.0, machine - sum(by_part.values())))


def _process_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _machine_s() -> float:
    times = psutil.cpu_times()._asdict()
    return float(sum(spent for name, spent in times.items() if name not in (*IDLE, "guest", "guest_nice")))
