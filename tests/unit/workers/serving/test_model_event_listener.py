from __future__ import annotations

import threading
import time

import pytest

from infra.process.ports import free_port
from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from workers.serving.model_event_listener import CONNECT_S, KafkaModelEventListener

#: The client by itself would take half a minute.
SLACK_S = 15.0


def test_without_a_broker_a_wait_ends_in_time_and_that_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hints = KafkaModelEventListener(Settings(kafka=KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port('127.0.0.1')}")), threading.Event())
    for wait_s in (0.1, 1.5):
        began = time.monotonic()
        assert hints.wait(wait_s) is None
        assert wait_s <= time.monotonic() - began < wait_s + CONNECT_S + SLACK_S
    assert [record.message for record in caplog.records if record.name == "workers.serving.model_event_listener"] == [
        "model events cannot be read; polling the registry alone"
    ]
