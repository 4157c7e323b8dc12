"""Triggers that fire, and triggers that do not."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.settings.training import TrainerSettings
from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality, Span
from schemas.run_report import TriggerKind
from trainer.run.triggers import RewardBlocks, drift, new_outcomes, schedule, unfinished

TRAINER = TrainerSettings(new_outcomes=100, every_s=60, min_trajectories=50, drift_window=200, drift_drop=0.1, min_users=10)


WINDOWS = 10  # per block of answers
BEGIN = datetime(2026, 5, 1, tzinfo=UTC)


def cell(window: int, earned: Mapping[str, Sequence[float]], domain: str | None = None, *, minutes: int = 1, **fields: Any) -> Quality:
    """The cell of one window, from rewards by user."""
    totals = [(len(ones), sum(ones)) for ones in earned.values()]
    sums = {"n": sum(n for n, _ in totals), "s": sum(s for _, s in totals), "nn": sum(n * n for n, _ in totals)}
    moments = Moments(users=len(totals), **sums, ss=sum(s * s for _, s in totals), ns=sum(n * s for n, s in totals))
    started = BEGIN + timedelta(minutes=window)
    values = {"name": "m", "version": "3", "experiment": None, "arm": Arm.CHAMPION, "partition": 0, "span": Span.WINDOW} | fields
    times = {"started_at": started, "ended_at": started + timedelta(minutes=minutes), "computed_at": started}
    return Quality(**values, **times, domain=domain, answers=0, metrics={Metric.REWARD: moments})


def add(to: RewardBlocks, window: int, earned: Mapping[str, Mapping[str, Sequence[float]]], **fields: Any) -> None:
    """Adds the cells of each domain, and of all together."""
    everybody: dict[str, list[float]] = defaultdict(list)
    for domain, users in earned.items():
        to.add(cell(window, users, domain, **fields))
        for user, ones in users.items():
            everybody[user] += ones
    to.add(cell(window, everybody, **fields))


def settled(rewards: RewardBlocks, windows: int) -> RewardBlocks:
    """Adds two later windows without feedback, and settles."""
    for later in (2, 3):
        rewards.add(cell(windows + later, {}))
    rewards.settle()
    return rewards


def rewards(*rates: float, **fields: Any) -> RewardBlocks:
    """Blocks of 200 answers to 20 users, each block with its rate of right answers."""
    blocks, rng = RewardBlocks("3", TRAINER.drift_window), random.Random(0)
    for window in range(len(rates) * WINDOWS):
        rate = rates[window // WINDOWS]
        add(blocks, window, {"letters": {f"u{user}": [float(rng.random() < rate)] for user in range(20)}}, **fields)
    return settled(blocks, len(rates) * WINDOWS)


@pytest.mark.parametrize(("new", "fired"), [(99, False), (100, True)])
def test_enough_new_outcomes_start_a_run(new: int, fired: bool) -> None:
    trigger = new_outcomes(new, TRAINER)
    assert trigger.fired is fired and trigger.numbers == {"new": new, "needed": 100} and f"{new} new outcomes" in trigger.reason
    assert not new_outcomes(10**6, TRAINER.model_copy(update={"new_outcomes": 0})).fired


@pytest.mark.parametrize(("since_s", "new", "fired"), [(None, 50, True), (None, 49, False), (60.0, 50, True), (59.0, 999, False), (999.0, 49, False)])
def test_the_schedule_waits_for_its_time_and_for_new_data(since_s: float | None, new: int, fired: bool) -> None:
    assert schedule(since_s, new, TRAINER).fired is fired


def test_an_interrupted_run_is_a_trigger() -> None:
    assert unfinished(["r1"]).fired and "r1" in unfinished(["r1"]).reason and not unfinished([]).fired


@pytest.mark.parametrize(("rates", "fired"), [((0.8, 0.5), True), ((0.8, 0.75), False), ((0.8, 0.95), False), ((0.8, 0.5, 0.8), False), ((0.8,), False)])
def test_drift_is_a_drop_of_the_latest_answers_below_the_first(rates: tuple[float, ...], fired: bool) -> None:
    trigger = drift(rewards(*rates), TRAINER)
    assert trigger.kind is TriggerKind.DRIFT and trigger.fired is fired, trigger.reason


def test_a_drop_that_chance_explains_is_no_drift() -> None:
    noisy = TRAINER.model_copy(update={"drift_window": 20, "min_users": 2})
    blocks = RewardBlocks("3", 20)
    add(blocks, 0, {"letters": {f"u{user}": [1.0] for user in range(20)}})
    add(blocks, 1, {"letters": {f"u{user}": [float(user not in (1, 5, 13))] for user in range(20)}})
    decided = drift(settled(blocks, 2), noisy)
    assert decided.numbers["drop"] == 0.15 and not decided.fired


def test_harder_questions_are_no_drift() -> None:
    blocks = RewardBlocks("3", TRAINER.drift_window)
    for window in range(2 * WINDOWS):
        hard = 4 if window < WINDOWS else 16
        earned = {"hard": {f"u{n}": [0.3] for n in range(hard)}, "easy": {f"u{n}": [0.9] for n in range(hard, 20)}}
        add(blocks, window, earned)
    settled(blocks, 2 * WINDOWS)
    assert blocks.first[None].mean > blocks.recent[None].mean + 0.3
    assert drift(blocks, TRAINER).numbers["drop"] == pytest.approx(0, abs=1e-9)


def test_few_users_raise_no_alarm() -> None:
    trigger = drift(rewards(0.9, 0.1), TRAINER.model_copy(update={"min_users": 201}))
    assert not trigger.fired and "200 users only" in trigger.reason


@pytest.mark.parametrize("fields", [{"version": "2"}, {"arm": Arm.CANARY}, {"arm": Arm.SHADOW}, {"span": Span.EXPERIMENT}])
def test_only_answers_that_the_version_gave_as_champion_count(fields: dict[str, Any]) -> None:
    assert not rewards(1.0, **fields).first


def test_windows_from_before_the_version_served_do_not_count() -> None:
    blocks = RewardBlocks("3", 2, since=BEGIN + timedelta(minutes=1))
    for window in range(3):
        add(blocks, window, {"letters": {"u1": [1.0], "u2": [float(window)]}})
    assert settled(blocks, 3).first[None].s == 2.0


def test_a_window_counts_once_with_its_newest_figures() -> None:
    blocks = RewardBlocks("3", 2)
    for reward in (0.0, 1.0):
        add(blocks, 0, {"letters": {"u1": [reward], "u2": [reward]}})
    settled(blocks, 1)
    add(blocks, 0, {"letters": {"u1": [0.0], "u2": [0.0]}})
    assert settled(blocks, 10).first[None].mean == 1.0 and not blocks.recent


def test_after_a_run_only_later_answers_raise_the_next_alarm() -> None:
    blocks = rewards(0.8, 0.4)
    assert drift(blocks, TRAINER).fired
    blocks.forget_recent()
    assert not drift(settled(blocks, 3 * WINDOWS), TRAINER).fired and blocks.first[None].n == TRAINER.drift_window
