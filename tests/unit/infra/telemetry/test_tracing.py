from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from infra.telemetry.tracing import SpanKind, current_traceparent, messaging, span
from schemas.envelope import new_traceparent


@pytest.mark.parametrize("flags", ["00", "01"])
def test_without_an_exporter_the_incoming_traceparent_is_passed_on(flags: str) -> None:
    incoming = new_traceparent()[:-2] + flags
    with span("process queries", incoming, SpanKind.CONSUMER, messaging("process", "queries", partition=3, offset=5)) as here:
        here.add({"retouch.outcome": "produced"})
        assert here.traceparent == incoming == current_traceparent()
        with span("inner") as inner:
            assert inner.traceparent == incoming
    assert current_traceparent() is None


def test_an_error_passes_through_the_span() -> None:
    with pytest.raises(KeyError), span("commit results"):
        raise KeyError
    assert current_traceparent() is None


async def test_tasks_have_spans_of_their_own_and_inherit_the_outer_span() -> None:
    async def work(traceparent: str | None) -> str | None:
        with span("work", traceparent):
            await asyncio.sleep(0)
            return current_traceparent()

    around, first, second = new_traceparent(), new_traceparent(), new_traceparent()
    with span("around", around):
        assert await asyncio.gather(*map(work, (first, second, None))) == [first, second, around]


def test_kafka_attributes_have_the_names_of_the_conventions() -> None:
    assert messaging("process", "queries", group="g", partition=3, offset=5) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "queries",
        "messaging.consumer.group.name": "g",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 5,
    }


def test_a_worker_without_an_exporter_loads_no_sdk() -> None:
    seen = "import sys, infra.process.lifecycle, infra.telemetry.export, infra.endpoints.client; "
    seen += "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "[]"
