"""Reasons not to train, with their numbers."""

from __future__ import annotations

from typing import Any

import pytest

from infra.settings import load
from schemas.ids import is_held_out
from tests.support.collected_records import record_of
from tests.support.outcomes import make_outcome, make_trajectory
from trainer.data.collect import assemble
from trainer.run.planning import RunPlan, plan_run

TRAINING = [name for name in (f"u{n}" for n in range(90)) if not is_held_out("t", name, 0.3)][:12]
HELD_OUT = [name for name in (f"u{n}" for n in range(90)) if is_held_out("t", name, 0.3)][:5]


def planned(users: list[str] = TRAINING, each: int = 5, judges: int = 5, domains: int = 2, flood: int = 0, old: int = 0, **trainer: Any) -> RunPlan:
    """The plan for one trajectory of each user, and `flood` more of the first. The first `old` ones are inside the parent's ranges."""
    outcomes = [make_outcome(n, user=user, domain=f"d{n % domains}") for user in users for n in range(each)]
    outcomes += [make_outcome(each + n, user=users[0], domain=f"d{n % domains}") for n in range(flood)]
    records = [record_of(make_trajectory(outcome), offset) for offset, outcome in enumerate(outcomes)]
    records += [record_of(outcome) for outcome in outcomes] + [record_of(make_outcome(user=user)) for user in HELD_OUT[:judges]]
    settings = load(trainer=trainer)
    return plan_run(assemble({}, records, settings.trainer, parent_ranges={"trajectories": {0: (0, old)}}), settings)


def test_a_snapshot_with_enough_data_is_trained_on() -> None:
    assert planned() == RunPlan(True, "SFT and RL on 60 trajectories (0 replayed) and 60 outcomes of 12 users")
    assert planned(rl={"steps": 0}).reason.startswith("SFT alone on 60 trajectories")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"each": 4}, "48 usable trajectories of training users, trainer.min_trajectories is 50"),
        ({"users": TRAINING[:9], "each": 10, "user_share": 1.0}, "90 trajectories of only 9 users, trainer.min_users is 10"),
        ({"domains": 1}, "trajectories of 1 domain only, trainer.min_domains is 2; a platform with fewer kinds of task sets it to their number"),
        ({"judges": 4}, "4 held-out users with outcomes, trainer.min_heldout_users is 5"),
        (
            {"each": 3, "flood": 500},
            "a flood from a few users: 36 of 536 usable trajectories are left once no user makes up more than trainer.user_share 0.1,"
            " trainer.min_trajectories is 50",
        ),
        (
            {"each": 5, "old": 40, "user_share": 1.0},
            "40 usable trajectories of training users, trainer.min_trajectories is 50;"
            " 20 more are the parent's already, which trainer.replay_share 0.5 limits (1: all of them again)",
        ),
    ],
)
def test_a_refusal_names_what_is_missing(made: dict[str, Any], reason: str) -> None:
    assert planned(**made) == RunPlan(False, reason)


def test_a_platform_with_one_domain_can_set_min_domains_to_one() -> None:
    assert planned(domains=1, min_domains=1).train


def test_outcomes_alone_train_nothing() -> None:
    settings = load()
    outcomes = [record_of(make_outcome(n, user=user)) for user in (*TRAINING, *HELD_OUT) for n in range(20)]
    plan = plan_run(assemble({}, outcomes, settings.trainer), settings)
    assert plan == RunPlan(False, "0 usable trajectories of training users, trainer.min_trajectories is 50")
