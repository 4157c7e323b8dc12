"""The gauges of a consumer group: lag, and the age of the oldest record that is not handled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.kafka.group_gauges import GroupGauges, Unhandled
from infra.telemetry.instruments import Gauge
from infra.telemetry.metrics import GROUP_LAG, GROUP_OLDEST_AGE

GROUP, QUERIES = "retouch-test", ("queries", 0)


@pytest.fixture
def gauges() -> Iterator[GroupGauges]:
    gauges = GroupGauges(GROUP)
    yield gauges
    gauges.clear()
    assert not series(GROUP_LAG) and not series(GROUP_OLDEST_AGE)


def series(gauge: Gauge) -> dict[tuple[str, str], float]:
    """By topic and partition."""
    values = {tuple(sorted(labels)): value for labels, value in gauge.values().items() if ("group", GROUP) in labels}
    return {(dict(labels)["topic"], dict(labels)["partition"]): value for labels, value in values.items()}


def age_s(gauges: GroupGauges, unhandled: Unhandled, now_s: float) -> float:
    gauges.publish({QUERIES: unhandled}, now_s * 1000)
    return series(GROUP_OLDEST_AGE)["queries", "0"]


def test_lag_is_what_is_unread_and_what_is_held(gauges: GroupGauges) -> None:
    gauges.publish({QUERIES: Unhandled(5, held=2), ("queries", 1): Unhandled(0)})
    assert series(GROUP_LAG) == {("queries", "0"): 7, ("queries", "1"): 0}


def test_a_partition_that_is_not_owned_any_more_has_no_series(gauges: GroupGauges) -> None:
    gauges.publish({QUERIES: Unhandled(5), ("queries", 1): Unhandled(1)})
    gauges.publish({("queries", 1): Unhandled(1)})
    assert set(series(GROUP_LAG)) == set(series(GROUP_OLDEST_AGE)) == {("queries", "1")}


def test_the_age_of_a_held_record_is_exact(gauges: GroupGauges) -> None:
    assert age_s(gauges, Unhandled(3, held=2, oldest_held_ms=40_000, last_read_ms=90_000), 100.0) == 60.0
    assert age_s(gauges, Unhandled(3, held=2, oldest_held_ms=200_000), 100.0) == 0.0, "a timestamp in the future"


def test_unread_records_are_younger_than_the_last_moment_without_any(gauges: GroupGauges) -> None:
    """A record of yesterday was the last one that was read: an unread one need not be that old."""
    assert age_s(gauges, Unhandled(0, last_read_ms=1_000), 100.0) == 0.0
    assert age_s(gauges, Unhandled(2, last_read_ms=1_000), 105.0) == 5.0
    assert age_s(gauges, Unhandled(2, last_read_ms=1_000), 160.0) == 60.0
    assert age_s(gauges, Unhandled(0, last_read_ms=159_000), 165.0) == 0.0


def test_a_backlog_is_as_old_as_the_record_that_was_read_last(gauges: GroupGauges) -> None:
    """Before the first one is read, it is as old as the assignment, at least."""
    assert age_s(gauges, Unhandled(9), 1_000.0) == 0.0
    assert age_s(gauges, Unhandled(9), 1_060.0) == 60.0
    assert age_s(gauges, Unhandled(7, last_read_ms=500_000), 1_060.0) == 560.0


def test_a_held_record_without_a_timestamp_counts_from_the_last_empty_moment(gauges: GroupGauges) -> None:
    assert age_s(gauges, Unhandled(0), 100.0) == 0.0
    assert age_s(gauges, Unhandled(0, held=1, oldest_held_ms=-1, last_read_ms=130_000), 160.0) == 60.0
