from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self
from uuid import UUID

import pytest
from kafka.errors import KafkaTimeoutError

from infra.settings import load
from schemas.quality import Quality
from schemas.serving import ServingReport
from trainer.promotion import topic_feed
from trainer.promotion.topic_feed import TopicFeed

WITHIN_S = 30.0


class Reader:
    """Fakes both readers; `breaks` raises at some polls."""

    latest: Sequence[ServingReport] = ()
    is_current = True

    def __init__(self, breaks: Callable[[], None]) -> None:
        self._breaks = breaks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def poll(self) -> None:
        self._breaks()

    def experiment(self, experiment: UUID) -> list[Quality]:
        return []

    def windows(self, version: str | None, since: object) -> list[Quality]:
        return []

    def strategy_windows(self, since: object) -> list[Quality]:
        return []

    def comparisons(self) -> list[Quality]:
        return []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("what a user wrote"), "RuntimeError at test_topic_feed.py:"),
        (StopIteration(), "StopIteration at test_topic_feed.py:"),
        (ValueError("what a user wrote"), "ValueError at test_topic_feed.py:"),
        (KafkaTimeoutError(), "KafkaTimeoutError"),
    ],
)
def test_the_feed_logs_an_error_once_and_reads_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, reason: str) -> None:
    polls: list[float] = []

    def breaks() -> None:
        polls.append(time.monotonic())
        if 3 <= len(polls) <= 5:
            raise error

    def reader(settings: Any) -> Reader:
        return Reader(breaks)

    monkeypatch.setattr(topic_feed, "QualityReader", reader)
    monkeypatch.setattr(topic_feed, "ServingReports", lambda settings: Reader(lambda: None))
    monkeypatch.setattr(topic_feed, "POLL_S", 0.001)
    monkeypatch.setattr(topic_feed, "RETRY_S", 0.05)
    threads = set(threading.enumerate())
    with caplog.at_level(logging.WARNING), TopicFeed(load()) as feed:
        deadline = time.monotonic() + WITHIN_S
        while len(polls) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(polls) >= 8 and feed.is_current
    assert set(threading.enumerate()) <= threads
    assert polls[5] - polls[2] >= 3 * 0.05
    reasons = [getattr(record, "reason", "") for record in caplog.records if record.name == topic_feed.log.name]
    assert len(reasons) == 1 and reason in reasons[0] and "user" not in reasons[0]
