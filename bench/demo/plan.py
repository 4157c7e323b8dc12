"""How large a demonstration is, in one place. Measured to end within its time on two cores; LEARNING says what is realistic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Plan:
    """`history`, `learn` and `exam` are numbers per user and domain. `settings` are overrides by section."""

    users: int
    history: int
    learn: int
    exam: int
    steady_per_s: float  # questions a second while the trainer runs
    burst: int  # questions sent at once when the new version is promoted
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


FULL = Plan(
    users=150,
    history=10,
    learn=8,
    exam=2,
    steady_per_s=2.0,
    burst=64,
    settings={"trainer": {"sft": {"max_steps": 200}, "rl": {"steps": 40}}},
)
#: For continuous integration: every mechanism, and a gain that may stay within the noise.
SHORT = Plan(
    users=50,
    history=8,
    learn=6,
    exam=2,
    steady_per_s=2.0,
    burst=48,
    settings={"trainer": {"eval_queries": 150, "sft": {"max_steps": 120}, "rl": {"steps": 5, "prompts_per_step": 8}}},
)
