"""The gauges of the streams group, from the positions of Faust's Kafka client and the records that no processor has acknowledged."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import faust

from infra.kafka.group_gauges import PUBLISH_EVERY_S, GroupGauges, Unhandled
from schemas.topics import JOIN_STATE_CHANGELOG
from streams.app.processor import GROUP


class StreamsGauges:
    """Of this member. `publish` costs nothing if the last call was less than `PUBLISH_EVERY_S` ago."""

    def __init__(self, app: faust.App) -> None:
        self._app = app
        self._gauges = GroupGauges(GROUP)
        self._next_at = 0.0

    def publish(self) -> None:
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + PUBLISH_EVERY_S
            self._gauges.publish(self._partitions())

    def clear(self) -> None:
        self._gauges.clear()

    def _partitions(self) -> dict[tuple[str, int], Unhandled]:
        subscription = self._app.consumer._thread._consumer._subscription.subscription  # Faust has no public access to a partition's position
        assignment = subscription.assignment if subscription else None
        if assignment is None:
            return {}
        held, names, last_read_ms = self._held(), self._app.transport.names, self._app.consumer.last_read_ms
        partitions = {}
        for tp in assignment.tps:
            state, topic = assignment.state_value(tp), names.declared(tp.topic)
            end = state.highwater if state.lso is None else state.lso
            if topic != JOIN_STATE_CHANGELOG and state.has_valid_position and end is not None:
                of_partition = held.get(tp, {})
                oldest_ms = of_partition[min(of_partition)] if of_partition else None
                partitions[topic, tp.partition] = Unhandled(max(0, end - state.position), len(of_partition), oldest_ms, last_read_ms.get(tp))
        return partitions

    def _held(self) -> dict[Any, dict[int, int | None]]:
        """Timestamps of the records without acknowledgement, by partition and offset."""
        held: dict[Any, dict[int, int | None]] = defaultdict(dict)
        for message in set(self._app.consumer.unacked):
            if not message.acked:
                held[message.tp][message.offset] = None if message.timestamp is None else round(message.timestamp * 1000)
        return held
