"""Latencies and standstills."""

from __future__ import annotations

from lab.chaos.timeline import AnsweredQuery, answered_queries, latencies_ms, longest_standstills, per_second
from tests.support.chaos_records import RecordBuilder


def test_acknowledged_queries_count_with_their_first_response() -> None:
    records = RecordBuilder()
    records.ask("q1", at_s=1.0)
    records.answer("q1", at_s=3.0)
    records.answer("q1", at_s=2.0)
    records.ask("q2", at_s=1.0)
    assert answered_queries(records.sent, records.seen) == [AnsweredQuery(0, 1.0, 2.0)]


def test_a_standstill_is_time_with_open_queries_and_no_answer() -> None:
    answers = [AnsweredQuery(0, 0.0, 1.0), AnsweredQuery(0, 9.0, 10.0), AnsweredQuery(0, 2.0, 30.0), AnsweredQuery(1, 5.0, 5.5)]
    assert [tuple(longest.values()) for longest in longest_standstills(answers)] == [(0, 10.0, 20.0), (1, 5.0, 0.5)]


def test_a_partition_without_queries_has_no_standstill() -> None:
    assert longest_standstills([AnsweredQuery(0, 0.0, 1.0), AnsweredQuery(0, 100.0, 101.5)]) == [{"partition": 0, "from_s": 100.0, "for_s": 1.5}]


def test_no_answers_have_no_latencies() -> None:
    assert latencies_ms([]) == {"p50": None, "p99": None, "max": None}
    assert latencies_ms([AnsweredQuery(0, 0.0, 1.0), AnsweredQuery(0, 0.0, 3.0)]) == {"p50": 1000.0, "p99": 3000.0, "max": 3000.0}


def test_moments_are_counted_by_second() -> None:
    assert per_second([1.2, 0.1, 1.9]) == {0: 1, 1: 2}
