"""How large a demonstration is, in one place. Measured to end within its time on two cores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DemoPlan:
    """`history`, `learn` and `exam` are numbers per user and domain. `settings` are overrides by section."""

    users: int
    history: int
    learn: int
    exam: int
    steady_per_s: float  # questions a second while the trainer runs
    trial_in_flight: int  # questions under way while the new version is tried on users: as many as are answered, so figures come in soon
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


#: Half of the users answered by the new version, half its baseline: the verdict comes after seconds of traffic instead of days. As shipped the reflector
#: repeats drafts in some 20 tokens; one that reasons writes twice as many, which on a machine that does everything at once is more than twice the time.
TRIAL = {"shadow_share": 0.5, "shadow_answers": 100, "canary_share": 0.5, "min_answers": 60, "min_users": 20, "max_latency_ratio": 4.0, "poll_s": 0.5}
#: SFT draws the number of items for each prompt, which teaches most per second (docs/learning.md); the paper's top-1 is the default elsewhere.
FULL = DemoPlan(
    users=150,
    history=10,
    learn=8,
    exam=4,
    steady_per_s=2.0,
    trial_in_flight=32,
    settings={"trainer": {"eval_queries": 450, "sft": {"k_max": 6}, "rl": {"steps": 40}}, "promotion": TRIAL},
)
#: For continuous integration: every mechanism in little time; RL only shows that it runs.
SHORT = DemoPlan(
    users=60,
    history=8,
    learn=8,
    exam=2,
    steady_per_s=2.0,
    trial_in_flight=32,
    settings={
        "trainer": {"eval_queries": 200, "sft": {"k_max": 4, "epochs": 6.0, "max_steps": 100}, "rl": {"steps": 5, "prompts_per_step": 8}},
        "promotion": TRIAL,
    },
)
