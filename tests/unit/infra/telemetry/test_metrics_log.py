from __future__ import annotations

import logging
import time

import pytest

from infra.telemetry.instruments import Counter, Gauge, Histogram
from infra.telemetry.metrics_log import logging_totals, totals


def counted() -> Counter:
    counter = Counter("retouch_tests", "{test}", "tests", ["strategy", "status"])
    counter.add(2, status="fine", strategy="rpo")
    counter.add(status="poor", strategy="rpo")
    return counter


def test_totals_name_each_combination_of_labels() -> None:
    assert totals([counted()]) == {"retouch_tests{status=fine,strategy=rpo}": 2, "retouch_tests{status=poor,strategy=rpo}": 1}


def test_a_histograms_totals_are_count_and_mean_and_zero_gauges_are_left_out() -> None:
    spread, empty = Histogram("retouch_tests_ms", "ms", "", bounds=[1]), Gauge("retouch_tests_left", "1", "")
    for value in (1, 2):
        spread.record(value)
    empty.set(0)
    assert totals([spread, empty]) == {"retouch_tests_ms_count{}": 2, "retouch_tests_ms_mean{}": 1.5}


def test_totals_are_logged_at_the_end_also_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counter = Counter("retouch_tests", "{test}", "")
    counter.add()
    with pytest.raises(KeyError), logging_totals([counter]):
        raise KeyError
    (record,) = caplog.records
    assert record.message == "metrics" and vars(record)["totals"] == {"retouch_tests{}": 1}


def test_totals_are_logged_at_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with logging_totals([counted()], every_s=0.01):
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        assert caplog.records


def test_a_process_that_counted_nothing_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with logging_totals([Counter("retouch_tests", "{test}", "")], every_s=0.001):
        pass
    assert not caplog.records
