"""Metrics that a worker publishes, and the limit of failures through our own fault."""

from __future__ import annotations

import pytest

from infra.errors import CannotContinue
from infra.telemetry.instruments import Counter, Gauge
from infra.telemetry.metrics import GROUP_LAG, GROUP_OLDEST_AGE, WORKER_COMMITS, WORKER_HELD, WORKER_IN_FLIGHT, WORKER_METADATA_UNREADABLE, WORKER_RECORDS
from tests.support.worker_harness import ScriptedHandler, WorkerHarness, answer, never_returns, numbered, serve_until
from workers.runtime.offsets import Position
from workers.runtime.watchdog import FailureLimit


def total(metric: Counter | Gauge, **labels: str) -> float:
    """Sum of all series with these labels."""
    return sum(value for series, value in metric.values().items() if labels.items() <= dict(series).items())


async def test_records_and_commits_are_counted_by_outcome() -> None:
    produced, committed = total(WORKER_RECORDS, outcome="produced"), total(WORKER_COMMITS, outcome="committed")
    harness = WorkerHarness()
    harness.ask(*numbered(20))
    await serve_until(harness.worker(answer), lambda: harness.answered().total() == 20)
    assert total(WORKER_RECORDS, outcome="produced") == produced + 20
    assert total(WORKER_COMMITS, outcome="committed") > committed


async def test_lag_and_held_records_are_published_and_the_lag_removed_at_the_end() -> None:
    for gauge in (GROUP_LAG, WORKER_HELD, WORKER_IN_FLIGHT, GROUP_OLDEST_AGE):
        gauge.remove()  # of workers of other tests
    unreadable = total(WORKER_METADATA_UNREADABLE)
    harness = WorkerHarness(partitions=1)
    harness.ask(*numbered(2))
    harness.commit(0, Position(0, "consumer-1"))
    worker = harness.worker(ScriptedHandler(on1=never_returns), stall_timeout_s=4.0)  # it checks every second
    published: list[tuple[float, float, float, float]] = []

    def are_as_expected() -> bool:
        gauges = (total(GROUP_LAG), total(WORKER_HELD), total(WORKER_IN_FLIGHT), total(GROUP_OLDEST_AGE))
        if total(GROUP_LAG):
            published.append(gauges)
        return bool(published) and published[-1][:3] == (1, 1, 1)  # the first check may come before the other record is answered

    await serve_until(worker, are_as_expected)
    assert total(WORKER_METADATA_UNREADABLE) == unreadable + 1
    assert not GROUP_LAG.values() and not GROUP_OLDEST_AGE.values(), "a worker that has ended has no lag"


def is_reached_after(limit: FailureLimit, *failures: bool) -> bool:
    for failure in failures:
        limit.count(our_fault=failure)
    return limit.is_reached


def test_the_limit_is_reached_if_most_records_fail_and_names_where_to_look() -> None:
    limit = FailureLimit("queries", window=100, at_least=20)
    assert not is_reached_after(limit, *[True] * 19)
    limit.check()
    assert is_reached_after(limit, True)
    with pytest.raises(CannotContinue, match=r"failed on 20 of the last 20 records of queries: .*log.*queries-dlt"):
        limit.check()


def test_the_limit_is_not_reached_by_a_minority_of_failures() -> None:
    limit = FailureLimit("queries", window=100, at_least=20)
    assert not any(is_reached_after(limit, number % 2 == 1) for number in range(1000))


def test_the_limit_counts_only_the_records_of_its_window() -> None:
    limit = FailureLimit("queries", window=40, at_least=20)
    assert not is_reached_after(limit, *[True] * 10, *[False] * 40, *[True] * 20)
    assert is_reached_after(limit, True)
