"""How much of everything a run does. `SHORT` shows that every piece works; its figures say little."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Seconds are of measurement alone."""

    versions: int = 4
    noise: float = 0.25  # of each weight, relative: half of the answers come out in other words, nine in ten can still be read
    questions: int = 2_000  # so many that hardly any is found in the engine's cache of prefixes, as in life
    places: int = 2  # versions in memory at once (`reflection.versions`)
    in_flight: int = 64
    capacity_s: float = 15.0
    load_share: float = 0.7  # of the capacity
    steady_s: float = 40.0  # without a swap, before and after those with
    shadow_s: float = 40.0  # with unseen answers beside
    shadow_share: float = 0.1
    swaps: int = 100
    pause_s: float = 1.0  # from the first answer by the new version to the next swap
    swap_within_s: float = 30.0
    seed: int = 0


FULL = Plan()
SHORT = Plan(versions=3, questions=300, in_flight=16, capacity_s=2.0, steady_s=3.0, shadow_s=2.0, swaps=6, pause_s=0.2)
