"""Spans of the streams process: each record of a batch has its own, and what is made from the record continues it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.telemetry.export import exporting
from schemas.drafts import Draft
from schemas.envelope import envelope_headers, new_traceparent
from schemas.records import ConsumedRecord
from schemas.topics import CONTEXTS
from streams.app.processor import output
from streams.app.spans import processing
from tests.support.otlp_collector import attributes, collecting, exporting_to
from tests.support.streams_process import draft
from tests.support.worker_messages import make_query


def record(offset: int, traceparent: str) -> ConsumedRecord:
    message = draft(make_query(offset))
    headers = envelope_headers(message, id=offset, source="/test", traceparent=traceparent)
    return ConsumedRecord("drafts", 1, offset, 0, message.query.key, message.to_bytes(), headers)


def test_each_record_of_a_batch_has_a_span_and_its_output_is_sent_in_its_trace() -> None:
    traces = [new_traceparent(), new_traceparent()]
    records = [record(offset, traceparent) for offset, traceparent in enumerate(traces)]
    with collecting() as collector, exporting(exporting_to(collector.url), "streams"), processing(records, "retrieval") as traced:
        for each in traced:
            message, envelope = each.read(Draft)
            sent = output(CONTEXTS, message, id="x", traceparent=envelope.traceparent)
            assert sent.on_sent is not None
            sent.on_sent()
        assert [tuple(each.headers) for each in traced] == [tuple(each.headers) for each in records], "a dead letter has them byte for byte"
    spans = {(span.name, span.trace_id.hex()): span for span in collector.spans}
    for offset, traceparent in enumerate(traces):
        trace_id, parent_id = traceparent.split("-")[1:3]
        process, send = spans["process drafts", trace_id], spans["send contexts", trace_id]
        assert process.parent_span_id.hex() == parent_id and send.parent_span_id == process.span_id
        assert attributes(process.attributes) == {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "drafts",
            "messaging.destination.partition.id": "1",
            "messaging.kafka.offset": str(offset),
            "messaging.consumer.group.name": "retouch-streams",
            "messaging.batch.message_count": "2",
            "retouch.processor": "retrieval",
        }


def test_an_unreadable_record_begins_a_trace_and_an_error_is_named_by_type() -> None:
    records = [ConsumedRecord("drafts", 0, 7, 0, None, b"a user's secret", [])]
    with collecting() as collector, exporting(exporting_to(collector.url), "streams"), pytest.raises(KeyError), processing(records, "retrieval"):
        raise KeyError("a user's secret")
    (span,) = collector.spans
    assert attributes(span.attributes)["error.type"] == "KeyError" and b"secret" not in span.SerializeToString()


def test_without_a_recorder_the_records_stay_as_they_are() -> None:
    records = [record(0, new_traceparent())]
    with processing(records, "retrieval") as traced:
        assert traced is records
    assert records[0] == replace(records[0], traceparent=new_traceparent()), "the span is no part of the record"
