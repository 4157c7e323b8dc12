from __future__ import annotations

import pytest

from bench.demo.latency import Timing, percentiles, summarize, timings
from tests.support.demo_report import at, ledger, query, response


def test_total_is_query_to_answer_and_overhead_is_total_without_the_models() -> None:
    queries = query(0, asked_s=1)
    answer = response(queries, answered_s=1.5, base_ms=120, reflect_ms=280)
    [timing] = timings([queries], ledger([queries], [answer]).answer_by_query(), at(0), at(10))
    assert timing.total == pytest.approx(500)
    assert timing.overhead == pytest.approx(100)


def test_only_questions_asked_within_the_window_count() -> None:
    queries = [query(number, asked_s=number) for number in range(4)]
    answers = ledger(queries, [response(each, answered_s=9) for each in queries]).answer_by_query()
    assert len(timings(queries, answers, at(1), at(3))) == 2


def test_percentiles_are_measured_values() -> None:
    result = percentiles([float(value) for value in range(1, 101)])
    assert (result.p50, result.p99) == (51, 100)
    assert percentiles([7.0]).p99 == 7


def test_no_answers_have_no_latency() -> None:
    assert summarize([]) is None


def test_every_step_is_summarized() -> None:
    result = summarize([Timing(base=10, retrieve=2, reflect=30, total=100)] * 3)
    assert result
    assert (result.base.p50, result.retrieve.p50, result.reflect.p50, result.overhead.p50, result.total.p50, result.answers) == (10, 2, 30, 60, 100, 3)
