"""A client keeps refreshing its metadata after a connection that broke while it was made."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kafka.net.inet import KafkaNetSocket

from infra.kafka.clients import groupless_consumer
from infra.settings import Settings
from schemas.topics import QUERIES

pytestmark = pytest.mark.integration

WAIT_S = 60.0


def test_metadata_is_refreshed_after_a_connection_is_reset_while_it_is_made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = KafkaNetSocket.sock_connect
    resets: list[bool] = []

    async def reset_first(*args: Any, **kwargs: Any) -> Any:
        if not resets:
            resets.append(True)
            raise ConnectionResetError(104, "Connection reset by peer")
        return await connect(*args, **kwargs)

    consumer = groupless_consumer(settings, "test-connections")
    try:
        assert consumer.partitions_for_topic(QUERIES.name)
        monkeypatch.setattr(KafkaNetSocket, "sock_connect", reset_first)
        for connection in list(consumer._manager._conns.values()):
            consumer._net.call_soon_threadsafe(connection.close)
        refreshed_at, deadline = consumer._cluster._last_successful_refresh_ms, time.monotonic() + WAIT_S
        while consumer._cluster._last_successful_refresh_ms == refreshed_at:
            consumer._cluster.request_update()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert resets
    finally:
        consumer.close()
