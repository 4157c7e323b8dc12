"""The traces that a training run's span links to: a sample that depends on no order."""

from __future__ import annotations

import random

from schemas.envelope import new_traceparent
from trainer.data import trace_sample
from trainer.data.trace_sample import LINKED, TraceSample


def sample(pairs: list[tuple[bytes, str]]) -> TraceSample:
    traces = TraceSample()
    for row_id, traceparent in pairs:
        traces.add(row_id, traceparent)
    return traces


def test_only_traces_of_the_rows_are_linked_and_each_once() -> None:
    first, second, third = (new_traceparent() for _ in range(3))
    traces = sample([(b"1", first), (b"2", first), (b"2", second), (b"3", third)])
    assert set(traces.of([b"1", b"2"])) == {first, second} and traces.of([]) == ()


def test_at_most_a_hundred_are_linked_in_whatever_order_the_records_come() -> None:
    pairs = [(str(number).encode(), new_traceparent()) for number in range(3 * LINKED)]
    shuffled = random.Random(0).sample(pairs, len(pairs))
    rows = [row_id for row_id, _ in pairs]
    linked = sample(pairs).of(rows)
    assert len(linked) == LINKED and linked == sample(shuffled).of(rows)
    assert list(linked) == sorted(traceparent for _, traceparent in pairs)[:LINKED]


def test_memory_is_bounded() -> None:
    traces = sample([(str(number).encode(), new_traceparent()) for number in range(trace_sample.KEPT + 500)])
    assert len(traces._smallest) == trace_sample.KEPT
