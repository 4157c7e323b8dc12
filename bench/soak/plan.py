"""Sizes of a run of `retouch bench soak`. `QUICK` only shows that every step works; its figures mean nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SoakPlan:
    """Seconds of load, without starts and stops. `history` is a number of items per user and domain."""

    users: int = 300
    history: int = 8
    in_flight: int = 64  # open questions while the capacity is measured
    warm_s: float = 30.0  # of the capacity load, which does not count
    capacity_s: float = 60.0
    load_share: float = 0.7  # of the capacity
    events: int = 2  # interactions sent with each question
    feedback_every: int = 10  # of so many questions one gets feedback

    @staticmethod
    def sample_every_s(seconds: float) -> float:
        """Time between two samples of a run of `seconds`: about 360 samples, at most one a second."""
        return max(1.0, seconds / 360)


FULL = SoakPlan()
QUICK = SoakPlan(users=20, history=2, in_flight=8, warm_s=3.0, capacity_s=8.0)
