"""The sizes of a demo run, chosen so that it ends in about five minutes on two cores."""

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
    trial_in_flight: int  # in-flight questions while the new version is a canary; the load is as high as the workers allow
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


#: Half of the users are the canary and half the baseline, so the verdict comes after seconds of traffic instead of days. The shipped reflector
#: repeats drafts in about 20 tokens. A trained one writes twice as many, which takes more than twice the time on a busy machine.
TRIAL = {"shadow_share": 0.5, "shadow_answers": 100, "canary_share": 0.5, "min_answers": 60, "min_users": 20, "max_latency_ratio": 4.0, "poll_s": 0.5}
#: SFT draws the number of items for each prompt, which learns most per second (docs/learning.md). Elsewhere the default is the paper's top-1.
FULL = DemoPlan(
    users=150,
    history=10,
    learn=8,
    exam=4,
    steady_per_s=2.0,
    trial_in_flight=32,
    settings={"trainer": {"eval_queries": 450, "sft": {"k_max": 6}, "rl": {"steps": 40}}, "promotion": TRIAL},
)
#: For continuous integration: every step in little time. RL runs, but learns nothing.
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
