"""Spans of a worker: the attempt at a record, and each result on its way, until it is committed."""

from __future__ import annotations

from infra.telemetry.export import exporting
from schemas.envelope import new_traceparent, read_envelope
from schemas.topics import DRAFTS
from tests.support.otlp_collector import attributes, collecting, exporting_to
from tests.support.worker_harness import WorkerHarness, answer, numbered, serve_until


async def test_a_committed_result_is_sent_in_the_trace_of_its_record() -> None:
    harness, incoming = WorkerHarness(partitions=1), new_traceparent()
    harness.ask(*numbered(1), extra=[("traceparent", incoming.encode())])
    with collecting() as collector, exporting(exporting_to(collector.url), "workers base"):
        await serve_until(harness.worker(answer), lambda: harness.answered().total() == 1)
    spans = {span.name: span for span in collector.spans}
    process, send = spans["process queries"], spans["send drafts"]
    trace_id, parent_id = incoming.split("-")[1:3]
    assert {process.trace_id.hex(), send.trace_id.hex()} == {trace_id}
    assert process.parent_span_id.hex() == parent_id and send.parent_span_id == process.span_id
    assert attributes(process.attributes)["retouch.outcome"] == "produced"
    assert (send.kind, attributes(send.attributes)["messaging.destination.name"]) == (send.SPAN_KIND_PRODUCER, "drafts")
    (written,) = harness.cluster.log.committed_records(DRAFTS.name)
    assert read_envelope(written.headers).traceparent == f"00-{trace_id}-{send.span_id.hex()}-01"
