from __future__ import annotations

from bench.demo.records import RunRecords, tally
from schemas.envelope import envelope_headers
from schemas.topics import FEEDBACK, QUERIES, RESPONSES
from tests.support.demo_report import at, ledger, query, query_id, response


def test_one_answer_for_each_query_is_neither_lost_nor_duplicated() -> None:
    queries = [query(number) for number in range(3)]
    counts = tally(ledger(queries, [response(each, answered_s=1) for each in queries]), [query_id(number) for number in range(3)])
    assert (counts.lost, counts.duplicated, counts.queries, counts.responses) == (0, 0, 3, 3)


def test_a_query_without_an_answer_is_lost() -> None:
    queries = [query(number) for number in range(3)]
    assert tally(ledger(queries, [response(queries[0], answered_s=1)]), []).lost == 2


def test_a_query_that_never_reached_its_topic_is_lost() -> None:
    queries = [query(0)]
    assert tally(ledger(queries, [response(queries[0], answered_s=1)]), [query_id(0), query_id(1)]).lost == 1


def test_a_second_record_of_the_same_answer_is_a_duplicate() -> None:
    queries = [query(number) for number in range(2)]
    answers = [response(queries[0], answered_s=1), response(queries[1], answered_s=1), response(queries[1], answered_s=2)]
    assert tally(ledger(queries, answers), []).duplicated == 1


def test_records_are_kept_by_topic_and_unreadable_ones_are_counted() -> None:
    records, queries = RunRecords(), query(0)
    answer = response(queries, answered_s=1)
    records.add(QUERIES, envelope_headers(queries.message, id=queries.message.query_id, source="/test", now=at(0)), queries.message.to_bytes())
    records.add(RESPONSES, envelope_headers(answer.message, id=queries.message.query_id, source="/test", now=at(1)), answer.message.to_bytes())
    records.add(FEEDBACK, [], b"not a record")
    assert records.queries == [queries]
    assert records.responses == [answer]
    counts = tally(records, [])
    assert (counts.queries, counts.responses, counts.feedback, counts.unreadable) == (1, 1, 1, 1)


def test_dead_letters_are_listed_for_every_topic_that_has_them() -> None:
    records = RunRecords()
    records.sizes["queries-dlt"] = 2
    assert tally(records, []).dead_letters["queries"] == 2
    assert tally(records, []).dead_letters["drafts"] == 0
