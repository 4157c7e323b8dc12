"""Sizes of a run of `retouch bench promotion`. `SHORT` only shows that every step works; its figures mean little."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromotionPlan:
    equal: int = 1_000  # experiments with equal versions, per scenario
    unequal: int = 300  # experiments per planted difference
    looks: int = 100  # maximum number of looks per experiment
    personas: int = 1_000  # users of the population, drawn with replacement
    seed: int = 0


FULL = PromotionPlan()
SHORT = PromotionPlan(equal=40, unequal=20, looks=40, personas=150)
