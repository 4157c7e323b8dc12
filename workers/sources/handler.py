"""Turns the records of one of the platform's topics into messages: decodes each and maps it by every source that reads the topic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from infra.errors import PoisonMessage
from infra.kafka.sources_file import SourceFormat
from infra.telemetry.metrics import SOURCES_SKIPPED, SkipReason
from schemas.envelope import Envelope, header_values, valid_traceparent
from schemas.records import ConsumedRecord
from workers.runtime.handler import Incoming, Outgoing
from workers.sources.decoding import Decoder
from workers.sources.mapping import MappedMessage, SourceMapping, Unmappable, map_record


def read_platform_record(record: ConsumedRecord) -> tuple[ConsumedRecord, Envelope]:
    """The record as it is. Only the trace context of its headers is taken over."""
    traceparent = header_values(record.headers).get("traceparent", b"").decode(errors="replace")
    return record, Envelope(str(record.offset), f"/{record.topic}", "", _timestamp(record), valid_traceparent(traceparent))


class SourceHandler:
    """Handles the records of one topic. `mappings`: all sources that read it."""

    def __init__(self, mappings: Sequence[SourceMapping], decoder: Decoder, format: SourceFormat | None = None) -> None:
        """`format` None: that of the sources, which is the same for all of a topic."""
        self._mappings, self._decoder = mappings, decoder
        self._format = format or mappings[0].spec.format

    async def __call__(self, incoming: Incoming[ConsumedRecord]) -> Sequence[Outgoing]:
        return [Outgoing(mapped.topic, mapped.message, mapped.id) for mapped in await self.map(incoming.message)]

    async def map(self, record: ConsumedRecord) -> list[MappedMessage]:
        """Raises Unmappable, and RetryLater while a schema cannot be read."""
        if record.value is None:
            self._skipped(self._mappings, SkipReason.TOMBSTONE)
            return []
        try:
            value = await self._decoder.decode(self._format, record.value)
        except PoisonMessage as error:
            raise Unmappable(self._mappings[0].spec.name, str(error)) from error
        mapped = map_record(self._mappings, value, record_variable(record), record.source)
        used = {message.source for message in mapped}
        self._skipped([mapping for mapping in self._mappings if mapping.spec.name not in used], SkipReason.FILTER)
        return mapped

    def _skipped(self, mappings: Sequence[SourceMapping], reason: SkipReason) -> None:
        for mapping in mappings:
            SOURCES_SKIPPED.add(source=mapping.spec.name, reason=reason)


def record_variable(record: ConsumedRecord) -> dict[str, object]:
    """`record` in expressions. Keys and headers that are not UTF-8 are null."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": _timestamp(record) if record.timestamp_ms >= 0 else None,
        "key": _text(record.key),
        "headers": {name: _text(content) for name, content in record.headers},
    }


def _timestamp(record: ConsumedRecord) -> datetime:
    try:
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a producer's clock may say anything
        return datetime.fromtimestamp(0, UTC)


def _text(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None
