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


#: SFT draws the number of items for each prompt, which teaches most per second (docs/learning.md); the paper's top-1 is the default elsewhere.
FULL = Plan(
    users=150,
    history=10,
    learn=8,
    exam=4,
    steady_per_s=2.0,
    burst=64,
    settings={"trainer": {"eval_queries": 450, "sft": {"k_max": 6}, "rl": {"steps": 40}}},
)
#: For continuous integration: every mechanism in little time; RL only shows that it runs.
SHORT = Plan(
    users=60,
    history=8,
    learn=8,
    exam=2,
    steady_per_s=2.0,
    burst=48,
    settings={"trainer": {"eval_queries": 200, "sft": {"k_max": 4, "epochs": 6.0, "max_steps": 100}, "rl": {"steps": 5, "prompts_per_step": 8}}},
)
