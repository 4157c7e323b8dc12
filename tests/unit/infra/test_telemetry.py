from __future__ import annotations

import logging
import time

import pytest

from infra.telemetry import METRICS, Counter, logged, totals


def counted() -> Counter:
    counter = Counter("retouch_tests_total", "tests", "by `status`")
    counter.add(2, status="fine", strategy="rpo")
    counter.add(status="poor", strategy="rpo")
    return counter


def test_totals_name_each_combination_of_labels() -> None:
    assert totals([counted()]) == {"retouch_tests_total{status=fine,strategy=rpo}": 2, "retouch_tests_total{status=poor,strategy=rpo}": 1}


def test_the_totals_are_logged_at_the_end_even_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counter = Counter("retouch_tests_total", "tests", "")
    counter.add()
    with pytest.raises(KeyError), logged([counter]):
        raise KeyError
    (record,) = caplog.records
    assert record.message == "metrics" and vars(record)["totals"] == {"retouch_tests_total{}": 1}


def test_the_totals_are_logged_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with logged([counted()], every_s=0.01):
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        assert caplog.records


def test_a_process_that_counted_nothing_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with logged([Counter("retouch_tests_total", "tests", "")], every_s=0.001):
        pass
    assert not caplog.records


def test_metric_names_are_declared_once() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
