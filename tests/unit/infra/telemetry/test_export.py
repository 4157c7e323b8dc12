from __future__ import annotations

import logging
import threading

import pytest

from infra.process.ports import free_port
from infra.settings import Settings
from infra.telemetry.export import exporting
from infra.telemetry.metrics import GROUP_LAG, WORKER_CALLS_MS, WORKER_RECORDS
from infra.telemetry.tracing import SpanKind, messaging, sending, span
from schemas.envelope import new_traceparent
from tests.support.otlp_collector import attributes, collecting, exporting_to


def test_metrics_arrive_with_names_units_labels_and_values() -> None:
    with collecting() as collector, exporting(exporting_to(collector.url), "workers base"):
        WORKER_RECORDS.add(3, worker="exported", outcome="produced")
        GROUP_LAG.set(7, group="retouch-exported", topic="exported", partition="0")
        WORKER_CALLS_MS.record(30, worker="exported")
        WORKER_CALLS_MS.record(90_000, worker="exported")
    assert collector.services == {"retouch-workers-base"}
    records, lag, calls = (collector.metrics[metric.name] for metric in (WORKER_RECORDS, GROUP_LAG, WORKER_CALLS_MS))
    assert (records.unit, lag.unit, calls.unit) == ("{record}", "{record}", "ms")
    assert records.sum.is_monotonic and records.description == WORKER_RECORDS.meaning
    (counted,) = [p for p in records.sum.data_points if attributes(p.attributes)["worker"] == "exported"]
    assert counted.as_int == 3 and attributes(counted.attributes)["outcome"] == "produced"
    (behind,) = [p for p in lag.gauge.data_points if attributes(p.attributes)["topic"] == "exported"]
    assert behind.as_int == 7
    (spread,) = [p for p in calls.histogram.data_points if attributes(p.attributes)["worker"] == "exported"]
    assert tuple(spread.explicit_bounds) == WORKER_CALLS_MS.bounds
    assert (spread.count, spread.sum, spread.bucket_counts[-1], spread.bucket_counts[5]) == (2, 90_030, 1, 1)


def test_a_span_is_the_child_of_its_records_span_and_the_parent_of_inner_spans() -> None:
    incoming = new_traceparent()
    with collecting() as collector, exporting(exporting_to(collector.url), "workers base"):  # noqa: SIM117  # the line would be too long
        with span("process queries", incoming, SpanKind.CONSUMER, messaging("process", "queries", group="g", partition=2, offset=9)) as outer:
            outer.add({"retouch.outcome": "produced"})
            with span("chat", kind=SpanKind.CLIENT) as inner:
                pass
    chat, process = collector.spans
    trace_id, parent_id = incoming.split("-")[1:3]
    assert {s.trace_id.hex() for s in collector.spans} == {trace_id}
    assert process.parent_span_id.hex() == parent_id and chat.parent_span_id == process.span_id
    assert outer.traceparent == f"00-{trace_id}-{process.span_id.hex()}-01"
    assert inner.traceparent == f"00-{trace_id}-{chat.span_id.hex()}-01"
    assert (process.name, process.kind, chat.kind) == ("process queries", process.SPAN_KIND_CONSUMER, chat.SPAN_KIND_CLIENT)
    expected = {**messaging("process", "queries", group="g", partition=2), "messaging.kafka.offset": "9", "retouch.outcome": "produced"}
    assert attributes(process.attributes) == expected


def test_an_unsampled_trace_is_not_exported_and_stays_unsampled() -> None:
    incoming = new_traceparent()[:-2] + "00"
    with collecting() as collector, exporting(exporting_to(collector.url), "workers base"), span("process queries", incoming) as here, span("inner") as inner:
        pass
    assert not collector.spans
    assert {t.split("-")[1] for t in (here.traceparent, inner.traceparent)} == {incoming.split("-")[1]}
    assert here.traceparent.endswith("-00") and inner.traceparent.endswith("-00")


@pytest.mark.parametrize("incoming", [None, "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_without_a_valid_context_a_trace_begins(incoming: str | None) -> None:
    with collecting() as collector, exporting(exporting_to(collector.url), "streams"), span("process events", incoming):
        pass
    (recorded,) = collector.spans
    assert recorded.trace_id.hex().strip("0") and not recorded.parent_span_id


def test_an_error_is_recorded_by_its_type_and_never_by_its_text() -> None:
    with collecting() as collector, exporting(exporting_to(collector.url), "streams"), pytest.raises(ValueError, match="secret"), span("process events"):
        raise ValueError("a user's secret")
    (recorded,) = collector.spans
    assert attributes(recorded.attributes) == {"error.type": "ValueError"} and recorded.status.code == recorded.status.STATUS_CODE_ERROR
    assert not recorded.events and b"secret" not in recorded.SerializeToString()


@pytest.mark.parametrize("trouble", ["no listener", "no response", "refused", "overloaded"])
def test_a_failing_collector_causes_one_log_line_and_no_delay(trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    status = {"no response": None, "refused": 400, "overloaded": 503}.get(trouble)
    with collecting(status) as collector:
        url = f"http://127.0.0.1:{free_port('127.0.0.1')}" if trouble == "no listener" else collector.url
        finished = threading.Event()

        def work() -> None:
            with exporting(exporting_to(url, every_s=0.05, timeout_s=0.3, end_within_s=2.0), "workers base"):
                for _ in range(10_000):  # more than the queue holds
                    with span("process queries"):
                        WORKER_RECORDS.add(worker="exported", outcome="produced")
            finished.set()

        threading.Thread(target=work, daemon=True).start()
        assert finished.wait(60)
    lines = [record for record in caplog.records if record.name.startswith("infra.telemetry")]
    assert 1 <= len(lines) <= 2 and {vars(line)["what"] for line in lines} <= {"metrics", "spans"}
    assert all(record.levelno < logging.ERROR for record in caplog.records)


def test_nothing_is_exported_where_no_collector_is_set() -> None:
    with exporting(Settings(), "workers base"), span("process queries", incoming := new_traceparent()) as here:
        assert here.traceparent == incoming


def test_a_send_span_ends_with_the_confirmation_and_links_to_other_traces() -> None:
    incoming, other = new_traceparent(), new_traceparent()
    with collecting() as collector, exporting(exporting_to(collector.url), "streams"):
        sent = sending("outcomes", incoming)
        sending("outcomes", incoming)  # never confirmed, so it is no span
        sent.link([other, "nonsense"])
        sent.end()
    (recorded,) = collector.spans
    assert (recorded.name, recorded.kind) == ("send outcomes", recorded.SPAN_KIND_PRODUCER)
    assert sent.traceparent == f"00-{incoming.split('-')[1]}-{recorded.span_id.hex()}-01"
    assert [link.trace_id.hex() for link in recorded.links] == [other.split("-")[1]]
