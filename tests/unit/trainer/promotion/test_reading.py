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
from trainer.promotion import reading
from trainer.promotion.reading import TopicFeed

WITHIN_S = 30.0


class Reader:
    """Both readers at once: at some looks the client breaks."""

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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("what a user wrote"), "RuntimeError at test_reading.py:"),
        (StopIteration(), "StopIteration at test_reading.py:"),
        (ValueError("what a user wrote"), "ValueError at test_reading.py:"),
        (KafkaTimeoutError(), "KafkaTimeoutError"),
    ],
)
def test_whatever_breaks_it_the_feed_says_so_once_and_reads_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    looks: list[float] = []

    def breaks() -> None:
        looks.append(time.monotonic())
        if 3 <= len(looks) <= 5:
            raise error

    def reader(settings: Any) -> Reader:
        return Reader(breaks)

    monkeypatch.setattr(reading, "QualityReader", reader)
    monkeypatch.setattr(reading, "Reports", lambda settings: Reader(lambda: None))
    monkeypatch.setattr(reading, "EVERY_S", 0.001)
    monkeypatch.setattr(reading, "RETRY_S", 0.05)
    threads = set(threading.enumerate())
    with caplog.at_level(logging.WARNING), TopicFeed(load()) as feed:
        deadline = time.monotonic() + WITHIN_S
        while len(looks) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(looks) >= 8 and feed.is_current
    assert set(threading.enumerate()) <= threads
    assert looks[5] - looks[2] >= 3 * 0.05
    reasons = [getattr(record, "reason", "") for record in caplog.records if record.name == reading.log.name]
    assert len(reasons) == 1 and said in reasons[0] and "user" not in reasons[0]
