"""How much of everything a run does. `QUICK` shows that every piece works; its figures say nothing."""

from __future__ import annotations

from dataclasses import dataclass

LOW_S, HIGH_S = 0.05, 0.5
MEAN_S = (LOW_S + HIGH_S) / 2
WORKERS = 2


@dataclass(frozen=True)
class WorkersPlan:
    """Seconds are of measurement alone; starting and stopping come on top."""

    in_flight: tuple[int, ...] = (64, 256)
    latency_in_flight: int = 64  # of each of the two workers
    warm_s: float = 2.0
    throughput_s: float = 10.0
    capacity_s: float = 8.0
    latency_s: float = 40.0
    load_share: float = 0.7  # of the capacity of two workers
    kills: int = 4
    kill_every_s: float = 7.0
    poison_s: float = 8.0
    poison_share: float = 0.5  # of the capacity: a flood needs room
    repetitions: int = 3
    flood: int = 10_000
    users: int = 100

    @property
    def ideal_two_per_s(self) -> float:
        """What two workers would do if they did nothing but call."""
        return WORKERS * self.latency_in_flight / MEAN_S

    @property
    def backlog(self) -> int:
        """Enough for the fastest arm from its start to its end, and some."""
        return int(max(self.in_flight) / MEAN_S * (self.warm_s + self.throughput_s + 5))


FULL = WorkersPlan()
QUICK = WorkersPlan(
    in_flight=(16,), latency_in_flight=16, warm_s=0.5, throughput_s=2.0, capacity_s=2.0, latency_s=3.0, kills=1, kill_every_s=5.0, poison_s=2.0, repetitions=1,
    flood=300, users=20,
)  # fmt: skip
