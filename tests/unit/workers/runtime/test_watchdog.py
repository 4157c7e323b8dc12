"""Metrics that a worker publishes."""

from __future__ import annotations

from infra.telemetry.instruments import Counter, Gauge
from infra.telemetry.metrics import WORKER_COMMITS, WORKER_HELD, WORKER_IN_FLIGHT, WORKER_LAG, WORKER_METADATA_UNREADABLE, WORKER_OLDEST, WORKER_RECORDS
from tests.support.worker_harness import ScriptedHandler, WorkerHarness, answer, never_returns, numbered, serve_until
from workers.runtime.offsets import Position


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
    for gauge in (WORKER_LAG, WORKER_HELD, WORKER_IN_FLIGHT, WORKER_OLDEST):
        gauge.remove()  # of workers of other tests
    unreadable = total(WORKER_METADATA_UNREADABLE)
    harness = WorkerHarness(partitions=1)
    harness.ask(*numbered(2))
    harness.commit(0, Position(0, "consumer-1"))
    worker = harness.worker(ScriptedHandler(on1=never_returns), stall_timeout_s=4.0)  # it checks every second
    published: list[tuple[float, float, float, float]] = []

    def are_as_expected() -> bool:
        gauges = (total(WORKER_LAG), total(WORKER_HELD), total(WORKER_IN_FLIGHT), total(WORKER_OLDEST))
        if total(WORKER_LAG):
            published.append(gauges)
        return bool(published) and published[-1][:3] == (1, 1, 1)  # the first check may come before the other record is answered

    await serve_until(worker, are_as_expected)
    assert total(WORKER_METADATA_UNREADABLE) == unreadable + 1
    assert total(WORKER_LAG) == 0, "a worker that has ended has no lag"
