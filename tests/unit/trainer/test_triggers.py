"""What begins a run, and what does not."""

from __future__ import annotations

import random
from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from infra.settings import Trainer
from schemas.outcomes import Outcome
from schemas.responses import ModelVersion
from tests.unit.trainer.made import make_outcome
from trainer.triggers import Rewards, TriggerKind, drift, new_outcomes, schedule, unfinished

TRAINER = Trainer(new_outcomes=100, every_s=60, min_trajectories=50, drift_window=200, drift_drop=0.1, min_users=10)


def answered(number: int, right: bool, version: str = "3", domain: str = "letters", truth: str | None = "b") -> Outcome:
    """One of 20 users' outcomes, its answer right or wrong."""
    outcome = make_outcome(number, user=f"u{number % 20}", truth=truth, domain=domain)
    model = ModelVersion(name="m", version=version, digest="d")
    provenance = outcome.response.provenance.model_copy(update={"model": model})
    return outcome.model_copy(update={"response": outcome.response.model_copy(update={"provenance": provenance, "answer": "b" if right else "a"})})


def rewards(*rates: float, **fields: Any) -> Rewards:
    """Whole windows, each with its share of right answers."""
    found, rng = Rewards("3", TRAINER.drift_window), random.Random(0)
    for rate in rates:
        for number in range(TRAINER.drift_window):
            found.add(answered(number, rng.random() < rate, **fields))
    return found


@pytest.mark.parametrize(("new", "fired"), [(99, False), (100, True)])
def test_enough_new_outcomes_begin_a_run(new: int, fired: bool) -> None:
    found = new_outcomes(new, TRAINER)
    assert found.fired is fired and found.numbers == {"new": new, "needed": 100} and f"{new} new outcomes" in found.reason
    assert not new_outcomes(10**6, TRAINER.model_copy(update={"new_outcomes": 0})).fired


@pytest.mark.parametrize(("since_s", "new", "fired"), [(None, 50, True), (None, 49, False), (60.0, 50, True), (59.0, 999, False), (999.0, 49, False)])
def test_the_schedule_waits_for_its_time_and_for_something_new(since_s: float | None, new: int, fired: bool) -> None:
    assert schedule(since_s, new, TRAINER).fired is fired


def test_a_run_that_was_cut_short_begins_again() -> None:
    assert unfinished(["r1"]).fired and "r1" in unfinished(["r1"]).reason and not unfinished([]).fired


@pytest.mark.parametrize(("rates", "fired"), [((0.8, 0.5), True), ((0.8, 0.75), False), ((0.8, 0.95), False), ((0.8, 0.5, 0.8), False), ((0.8,), False)])
def test_drift_is_a_fall_of_the_latest_window_below_the_first(rates: tuple[float, ...], fired: bool) -> None:
    found = drift(rewards(*rates), TRAINER)
    assert found.kind is TriggerKind.DRIFT and found.fired is fired, found.reason


def test_a_fall_that_chance_explains_is_no_drift() -> None:
    noisy = TRAINER.model_copy(update={"drift_window": 20, "min_users": 2})
    found = Rewards("3", 20)
    for number in range(40):
        found.add(answered(number, right=number not in (21, 25, 33)))
    assert drift(found, noisy).numbers["drop"] == 0.15 and not drift(found, noisy).fired


def test_harder_questions_are_no_drift() -> None:
    found, asked = Rewards("3", TRAINER.drift_window), Counter[str]()
    for number in range(2 * TRAINER.drift_window):
        domain = "hard" if number % 10 < (2 if number < TRAINER.drift_window else 8) else "easy"
        right = asked[domain] % 10 < (3 if domain == "hard" else 9)
        asked[domain] += 1
        found.add(answered(number, right, domain=domain))
    assert fmean(one.score for one in found.first) > fmean(one.score for one in found.recent) + 0.3
    assert drift(found, TRAINER).numbers["drop"] == pytest.approx(0, abs=1e-9)


def test_few_users_raise_no_alarm() -> None:
    found = drift(rewards(0.9, 0.1), TRAINER.model_copy(update={"min_users": 21}))
    assert not found.fired and "20 users only" in found.reason


def test_other_versions_and_outcomes_without_truth_do_not_count() -> None:
    assert not rewards(1.0, version="2").first and not rewards(1.0, truth=None).first


def test_after_a_run_only_later_answers_raise_the_next_alarm() -> None:
    found = rewards(0.8, 0.4)
    assert drift(found, TRAINER).fired
    found.forget_recent()
    assert not drift(found, TRAINER).fired and len(found.first) == TRAINER.drift_window
