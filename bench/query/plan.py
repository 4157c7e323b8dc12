"""Sizes of a run of `retouch bench query`. `QUICK` only shows that every step works; its figures mean nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QueryPlan:
    points: int = 300_000  # of the index when the first draft arrives
    events_per_user: int = 100
    first_searches: int = 100  # of the bare index, right after it was opened
    searches: int = 3_000  # and after those
    rate: float = 50.0  # of drafts, and of questions, a second
    restart_s: float = 10.0  # seconds of drafts that count as right after the restart
    idle_s: float = 40.0  # and after those
    history: int = 90_000  # events that wait when the loaded arm starts
    settle_s: float = 5.0  # of that arm without drafts, so that the restart does not count
    loaded_s: float = 40.0  # or until all history is indexed
    questions_s: float = 30.0  # of each arm of the pipeline
    warm_s: float = 3.0  # of them that do not count: connections open, code warms up
    base_s: float = 0.05  # duration of a call of the stub of the base model
    reflect_s: float = 0.05  # and of the reflection model's

    @property
    def users(self) -> int:
        return max(1, self.points // self.events_per_user)


FULL = QueryPlan()
QUICK = QueryPlan(
    points=4_000, first_searches=20, searches=200, rate=20.0, restart_s=2.0, idle_s=4.0, history=3_000, settle_s=0.0, loaded_s=4.0, questions_s=5.0, warm_s=1.0
)  # fmt: skip
