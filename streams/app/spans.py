"""Spans of the streams process: one for each record, while its batch is handled and sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from infra.telemetry.tracing import SpanKind, is_recording, messaging, start_span
from schemas.envelope import read_envelope
from schemas.messages import Malformed
from schemas.records import ConsumedRecord
from streams.app.processor import GROUP


@contextmanager
def processing(records: Sequence[ConsumedRecord], processor: str) -> Iterator[Sequence[ConsumedRecord]]:
    """The records, each with the traceparent of its span: what is made from it continues there. Without a recorder they stay as they are."""
    if not is_recording():
        yield records
        return
    attributes = [messaging("process", each.topic, group=GROUP, partition=each.partition, offset=each.offset) for each in records]
    spans = [start_span(f"process {each.topic}", _parent(each), SpanKind.CONSUMER, of) for each, of in zip(records, attributes, strict=True)]
    error: BaseException | None = None
    try:
        yield [replace(record, traceparent=span.traceparent) for record, span in zip(records, spans, strict=True)]
    except BaseException as raised:
        error = raised
        raise
    finally:
        for span in spans:
            span.add({"retouch.processor": processor, "messaging.batch.message_count": len(records)})
            span.end(error)


def _parent(record: ConsumedRecord) -> str | None:
    try:
        return read_envelope(record.headers, record.value).traceparent
    except Malformed:
        return None
