"""What this member knows of `interactions` on the broker, from Faust's Kafka client: implements `streams.index.progress.HistoryLog`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faust
from faust.types import TP

from schemas.topics import INTERACTIONS


class FaustHistoryLog:
    """`partition_count` returns the number of partitions of a topic, by its declared name."""

    def __init__(self, app: faust.App, partition_count: Callable[[str], int]) -> None:
        self._app, self._partition_count = app, partition_count

    def is_history(self, topic: str) -> bool:
        return topic in (INTERACTIONS.name, self._app.transport.names.topic(INTERACTIONS.name))

    def partitions(self) -> int:
        return self._partition_count(INTERACTIONS.name)

    def is_read(self, partition: int) -> bool:
        return self._state(partition) is not None

    def committed(self, partition: int) -> int:
        offset: int | None = self._app.consumer._committed_offset.get(self._tp(partition))  # Faust has no public access to it
        return max(0, offset or 0)

    def end(self, partition: int) -> int | None:
        state = self._state(partition)
        return state.highwater if state else None

    def fetched_at(self, partition: int) -> float:
        state = self._state(partition)
        return (state.timestamp or 0) / 1000 if state else 0.0

    def _state(self, partition: int) -> Any:
        subscription = self._app.consumer._thread._consumer._subscription.subscription  # nor to these
        assignment = subscription.assignment if subscription else None
        tp = self._tp(partition)
        return assignment.state_value(tp) if assignment is not None and tp in assignment.tps else None

    def _tp(self, partition: int) -> TP:
        return TP(self._app.transport.names.topic(INTERACTIONS.name), partition)
