"""How many experiments a run simulates. `SHORT` shows that every piece works; its figures say little."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromotionPlan:
    equal: int = 1_000  # experiments with two equal versions, of each kind of users
    unequal: int = 300  # of each planted difference
    looks: int = 100  # at each, if no verdict comes before
    personas: int = 1_000  # users of the population, drawn from again and again
    seed: int = 0


FULL = PromotionPlan()
SHORT = PromotionPlan(equal=40, unequal=20, looks=40, personas=150)
