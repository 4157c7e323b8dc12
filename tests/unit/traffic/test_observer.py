from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.envelope import Envelope
from schemas.responses import ResponseStatus
from schemas.strategies import Strategy
from tests.support.replay_questions import START, question
from tests.support.replay_responses import response_to
from traffic.observer import AnswerCounts, ObservedRecord, ShownAnswer, Standstill, percentile, standstills

QUERIES = [question("ann", number).query for number in range(4)]


def _seen(topic: str, message: object, seconds: float) -> ObservedRecord:
    envelope = Envelope("id", "/test", "type", START + timedelta(seconds=seconds), "trace")
    return ObservedRecord(topic, 0, 0, b"t/ann", message, envelope)  # type: ignore[arg-type]  # any message


def test_unanswered_queries_are_lost_and_second_answers_are_duplicates() -> None:
    tally = AnswerCounts()
    for query in QUERIES:
        tally.note(_seen("queries", query, 0))
    for query, seconds in ((QUERIES[0], 1.0), (QUERIES[1], 2.0), (QUERIES[1], 9.0), (QUERIES[1], 9.5)):
        tally.note(_seen("responses", response_to(query), seconds))
    assert tally.lost == {QUERIES[2].identity, QUERIES[3].identity}
    assert tally.duplicated == 2
    assert sorted(tally.latencies_ms()) == [1000.0, 2000.0]
    assert tally.records == {"queries": 4, "responses": 4}


def test_an_answer_may_be_read_before_its_query() -> None:
    tally = AnswerCounts()
    tally.note(_seen("responses", response_to(QUERIES[0], status=ResponseStatus.NO_HISTORY), 3))
    tally.note(_seen("queries", QUERIES[0], 1))
    assert (tally.lost, tally.duplicated, tally.latencies_ms()) == (set(), 0, [2000.0])
    assert (tally.statuses, tally.versions) == ({"no_history": 1}, {"none": 1})


def test_versions_are_those_of_the_reflection_model() -> None:
    tally, reflected = AnswerCounts(), response_to(QUERIES[0])
    by_hydra = response_to(QUERIES[1])
    provenance = by_hydra.provenance.model_copy(update={"strategy": Strategy.HYDRA})
    for response in (reflected, by_hydra.model_copy(update={"provenance": provenance})):
        tally.note(_seen("responses", response, 1))
    assert tally.versions == {"1": 1, "none": 1}


def test_a_query_sent_twice_may_be_answered_twice() -> None:
    tally = AnswerCounts()
    for seconds in (0, 5):
        tally.note(_seen("queries", QUERIES[0], seconds))
        tally.note(_seen("responses", response_to(QUERIES[0]), seconds + 1))
    assert tally.duplicated == 0
    tally.note(_seen("responses", response_to(QUERIES[0]), 9))
    assert tally.duplicated == 1


def test_unreadable_records_are_counted_separately() -> None:
    tally = AnswerCounts()
    tally.note(ObservedRecord("queries", 0, 0, None))
    assert (tally.records["queries"], tally.unreadable["queries"], len(tally.asked)) == (1, 1, 0)


def test_rounds_add_up() -> None:
    first, second = AnswerCounts(), AnswerCounts()
    first.note_query(QUERIES[0], START)
    second.note_query(QUERIES[1], START)
    second.note_response(response_to(QUERIES[1]), START)
    first.add(second)
    assert (len(first.asked), first.lost, dict(first.statuses)) == (2, {QUERIES[0].identity}, {"personalized": 1})


@pytest.mark.parametrize(
    ("values", "share", "expected"), [([], 0.5, None), ([3.0], 0.99, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([4.0, 1.0, 3.0, 2.0], 0.99, 4.0)]
)
def test_percentiles_are_nearest_ranks(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


def test_a_standstill_lasts_from_one_answer_to_the_next_with_a_query_open() -> None:
    gaps = standstills([ShownAnswer(0, 0.0, 1.0), ShownAnswer(0, 0.5, 4.0), ShownAnswer(0, 3.0, 4.5)])[0]
    assert [(standstill.from_s, standstill.to_s) for standstill in gaps] == [(0.0, 1.0), (1.0, 4.0), (4.0, 4.5)]


def test_a_partition_without_open_queries_has_no_standstill() -> None:
    assert standstills([ShownAnswer(0, 0.0, 1.0), ShownAnswer(0, 8.0, 8.5)])[0][-1] == Standstill(0, 8.0, 8.5)


def test_standstills_are_separate_for_each_partition() -> None:
    gaps = standstills([ShownAnswer(0, 0.0, 1.0), ShownAnswer(1, 0.0, 3.0), ShownAnswer(0, 1.5, 2.0)])
    assert {partition: own[-1].seconds for partition, own in gaps.items()} == {0: 0.5, 1: 3.0}
