from __future__ import annotations

from datetime import UTC, datetime

import pytest

from infra.registry.client import RegisteredVersion
from infra.settings import load
from schemas.ids import bucket, is_held_out
from tests.support.collected_records import record_of
from tests.support.outcomes import make_outcome, make_trajectory
from trainer.data.collect import assemble
from trainer.data.holdout import HOLDOUT_SHARE, untouched_share
from trainer.run.planning import plan_run


def version(parent: str | None, **tags: str) -> RegisteredVersion:
    return RegisteredVersion("m", "2", "d", parent, datetime.now(UTC), tags=tags)


@pytest.mark.parametrize(
    ("trained", "share"),
    [
        (None, 1.0),
        (version(None), 1.0),  # shipped
        (version("1", **{HOLDOUT_SHARE: "0.3"}), 0.3),
        (version("1"), 0.0),
        (version("1", **{HOLDOUT_SHARE: "some"}), 0.0),
    ],
)
def test_the_untouched_share_is_read_from_the_versions_tag(trained: RegisteredVersion | None, share: float) -> None:
    assert untouched_share(trained) == share


@pytest.mark.parametrize("judges", [False, True])
def test_a_plan_reports_that_fewer_users_judge_than_are_held_out(judges: bool) -> None:
    settings = load(trainer={"holdout_share": 0.5, "min_trajectories": 1, "min_heldout_users": 1, "min_users": 1, "min_domains": 1})
    between = next(f"u{n}" for n in range(99) if 0.3 <= bucket("t", f"u{n}", "holdout") < 0.5)
    below = next(f"u{n}" for n in range(99) if is_held_out("t", f"u{n}", 0.3))
    trains = next(f"u{n}" for n in range(99) if not is_held_out("t", f"u{n}", 0.5))
    records = [record_of(message) for message in (make_trajectory(make_outcome(user=trains)), make_outcome(user=below if judges else between))]
    plan = plan_run(assemble({}, records, settings.trainer, untouched_share=0.3), settings)
    assert plan.train is judges and "judged by users below 0.3 only, not trainer.holdout_share 0.5" in plan.reason
    assert "judged by" not in plan_run(assemble({}, records, settings.trainer), settings).reason
