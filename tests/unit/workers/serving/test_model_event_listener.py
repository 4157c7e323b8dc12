from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from infra.kafka.topic_reader import TopicReader
from infra.process.ports import free_port
from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from schemas.envelope import envelope_headers
from schemas.model_events import ModelEvent
from schemas.records import ConsumedRecord
from workers.serving.model_event_listener import CONNECT_S, KafkaModelEventListener

#: The client by itself would take half a minute.
SLACK_S = 15.0
NAME = Settings().registry.model_name


def test_without_a_broker_a_wait_ends_in_time_and_that_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hints = KafkaModelEventListener(Settings(kafka=KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port('127.0.0.1')}")), threading.Event())
    for wait_s in (0.1, 1.5):
        began = time.monotonic()
        assert hints.wait(wait_s) is None
        assert wait_s <= time.monotonic() - began < wait_s + CONNECT_S + SLACK_S
    assert [record.message for record in caplog.records if record.name == "workers.serving.model_event_listener"] == [
        "model events cannot be read; polling the registry alone"
    ]


def test_an_unreadable_event_is_logged_with_its_place_and_the_next_one_read(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"name": NAME, "version": "2", "digest": "d2", "previous": "1", "reason": "promoted", "occurred_at": datetime(2026, 1, 1, tzinfo=UTC)}
    event = ModelEvent(event_id=UUID(int=1), **fields)
    unreadable = record(3, b"{}", [])
    readable = record(4, event.to_bytes(), envelope_headers(event, id=event.event_id, source="/tests"))
    listener = KafkaModelEventListener(Settings(), threading.Event())
    listener._connect = lambda: cast("TopicReader", ScriptedReader([unreadable, readable]))
    assert listener.wait(SLACK_S) == event
    (logged,) = [vars(line) for line in caplog.records if line.message == "a model event is ignored: it cannot be read"]
    assert (logged["topic"], logged["partition"], logged["offset"]) == ("model-events", 0, 3)


class ScriptedReader:
    """The methods of a TopicReader that the listener uses. Returns `records` at the first poll."""

    def __init__(self, records: list[ConsumedRecord]) -> None:
        self._records = records

    def follow(self, *topics: str, from_end: bool) -> None:
        assert topics == ("model-events",) and from_end

    def poll(self, timeout_s: float) -> list[ConsumedRecord]:
        records, self._records = self._records, []
        return records


def record(offset: int, value: bytes, headers: Any) -> ConsumedRecord:
    return ConsumedRecord("model-events", 0, offset, 0, None, value, headers)
