"""Backoff: pauses between the attempts at a record."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponential pauses with jitter, between `first_s` and `longest_s`, for at most `attempts` attempts in all."""

    attempts: int = 6
    first_s: float = 0.25
    longest_s: float = 20.0

    def pause_s(self, failures: int, after_s: float, rng: random.Random) -> float:
        """The pause after this many failures: at least `after_s`, the pause that the failing side asked for, and at most `longest_s`.

        Jitter adds up to a quarter, so that records which failed together are not retried together.
        """
        exponential = self.first_s * 2.0 ** (failures - 1)
        return min(self.longest_s, max(after_s, exponential)) * (1 + rng.random() / 4)
