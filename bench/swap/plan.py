"""Sizes of a run of `retouch bench swap`. `SHORT` only shows that every step works; its figures mean little."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SwapPlan:
    """Seconds of measurement, without starts."""

    versions: int = 4
    noise: float = 0.15  # relative, of each weight: enough for different answers. At 0.25 one answer in ten reaches its token limit, which no gate allows
    questions: int = 2_000
    places: int = 2  # versions in memory (`reflection.versions`)
    in_flight: int = 64
    capacity_s: float = 6.0  # for each version
    load_share: float = 0.7  # of the capacity
    steady_s: float = 10.0  # for each version, before the swaps and after them
    shadow_s: float = 40.0  # with shadow answers
    shadow_share: float = 0.1
    swaps: int = 100
    pause_s: float = 1.5  # from the first answer by the new version to the next swap
    settle_s: float = 1.0  # after a change of route: the old version finishes its requests, and queues empty
    swap_within_s: float = 30.0
    seed: int = 0


FULL = SwapPlan()
SHORT = SwapPlan(versions=3, questions=300, in_flight=16, capacity_s=1.0, steady_s=1.5, shadow_s=2.0, swaps=6, pause_s=0.2)
