"""Sizes of a run of `retouch bench workers`. `QUICK` only shows that every step works; its figures mean nothing."""

from __future__ import annotations

from dataclasses import dataclass

LOW_S, HIGH_S = 0.05, 0.5
MEAN_S = (LOW_S + HIGH_S) / 2
WORKERS = 2


@dataclass(frozen=True)
class WorkersPlan:
    """Seconds of measurement, without starts and stops."""

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
    poison_share: float = 0.5  # of the capacity; the rest is for the flood
    repetitions: int = 3
    flood: int = 10_000
    users: int = 100

    @property
    def ideal_two_per_s(self) -> float:
        """The rate of two workers without any work but the call."""
        return WORKERS * self.latency_in_flight / MEAN_S

    @property
    def backlog(self) -> int:
        """Number of queries: enough for the fastest arm, with a margin."""
        return int(max(self.in_flight) / MEAN_S * (self.warm_s + self.throughput_s + 5))


FULL = WorkersPlan()
QUICK = WorkersPlan(
    in_flight=(16,), latency_in_flight=16, warm_s=0.5, throughput_s=2.0, capacity_s=2.0, latency_s=3.0, kills=1, kill_every_s=5.0, poison_s=2.0, repetitions=1,
    flood=300, users=20,
)  # fmt: skip
