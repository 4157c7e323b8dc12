"""The checker: clean records have no anomaly, and each anomaly is reported."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.chaos.checker import AnomalyKind, CheckResult, Disturbance, Fates, answered_by_s, check
from lab.chaos.records import SendOutcome
from lab.chaos.segments import RecordFate
from schemas.drafts import FailureCause
from schemas.topics import CONTEXTS, DRAFTS, FEEDBACK, LOOKUPS, OUTCOMES, QUERIES, RESPONSES, RETRIEVALS, Topic
from tests.support.chaos_records import RecordBuilder, clean

HEALED_S, BOUND_S = 10.0, 30.0


def judged(records: RecordBuilder, fates: Fates | None = None, *, ordered: bool = False, healed_s: float | None = HEALED_S) -> CheckResult:
    return check(records.sent, records.seen, fates or {}, healed_s=healed_s, bound_s=BOUND_S, ordered=ordered)


def found(verdict: CheckResult) -> list[tuple[AnomalyKind, str, str]]:
    return [(anomaly.kind, anomaly.topic, anomaly.id) for anomaly in verdict.anomalies]


def test_clean_records_are_valid() -> None:
    verdict = judged(clean(), ordered=True)
    assert verdict.is_valid
    assert not any(verdict.counts.values())
    assert verdict.observed["queries_ok"] == 3


@given(st.lists(st.sampled_from(["ada", "bob", "eve"]), max_size=30), st.randoms(use_true_random=False))
def test_clean_records_are_valid_in_any_order_and_number_of_readings(users: list[str], rng: random.Random) -> None:
    records = RecordBuilder()
    for number, user in enumerate(users):
        records.ask(f"q{number}", user=user)
        records.answer(f"q{number}", user=user)
    records.seen += [replace(record, seen_s=record.seen_s + 1) for record in records.seen]
    rng.shuffle(records.seen)
    assert judged(records, ordered=True).is_valid


def test_an_acknowledged_query_without_a_response_is_lost_and_unseen() -> None:
    records = clean()
    records.ask("q4")
    assert found(judged(records)) == [(AnomalyKind.LOST_WRITE, RESPONSES.name, "q4"), (AnomalyKind.UNSEEN, RESPONSES.name, "q4")]


def test_an_acknowledged_record_that_is_not_on_its_topic_is_lost() -> None:
    records = clean()
    records.ask("q4", stored=False)
    records.answer("q4")
    assert found(judged(records)) == [(AnomalyKind.LOST_WRITE, QUERIES.name, "q4")]


@pytest.mark.parametrize(
    ("strategy", "topics"),
    [("rpo", (DRAFTS, CONTEXTS, RESPONSES)), ("rag", (LOOKUPS, RETRIEVALS, RESPONSES)), ("zero_shot", (RESPONSES,))],
)
def test_each_strategy_has_its_own_way_to_one_response(strategy: str, topics: tuple[Topic, ...]) -> None:
    records = RecordBuilder()
    records.ask("q1", strategy=strategy)
    for topic in topics:
        records.record(topic.name, "q1", strategy=strategy)
    assert judged(records).is_valid
    records.record(topics[0].name, "q1", strategy=strategy)
    assert found(judged(records)) == [(AnomalyKind.DUPLICATE, topics[0].name, "q1")]


@pytest.mark.parametrize(("strategy", "topic", "made_by"), [("rag", RESPONSES, "zero_shot"), ("rag", DRAFTS, "rag"), ("zero_shot", LOOKUPS, "zero_shot")])
def test_a_record_of_another_strategy_than_its_query_names_is_reported(strategy: str, topic: Topic, made_by: str) -> None:
    records = RecordBuilder()
    records.ask("q1", strategy=strategy)
    if topic is not RESPONSES:
        records.record(RESPONSES.name, "q1", strategy=strategy)
    records.record(topic.name, "q1", strategy=made_by)
    assert found(judged(records)) == [(AnomalyKind.STRATEGY, topic.name, "q1")]


def test_a_response_without_draft_and_answer_needs_an_explanation() -> None:
    records = RecordBuilder()
    records.ask("q1", strategy="rag")
    records.seen.append(replace(records.record(RESPONSES.name, "q1", strategy="rag"), offset=7, status="base_failed", failure="no_text"))
    del records.seen[-2]
    assert found(judged(records)) == [(AnomalyKind.UNEXPLAINED, RESPONSES.name, "q1")]


def failed_drafts(*failures: str | None) -> RecordBuilder:
    """Queries that end without a base answer."""
    records = RecordBuilder()
    for number in range(len(failures)):
        records.ask(f"q{number}")
        records.answer(f"q{number}")
    drafts = iter(failures)
    records.seen = [replace(each, status="base_failed", failure=next(drafts)) if each.topic == DRAFTS.name else each for each in records.seen]
    return records


@pytest.mark.parametrize(
    ("failures", "explained", "unexplained"),
    [
        (["filtered"], {"filtered": 1}, []),
        (["filtered", "filtered"], {"filtered": 1, "no_text": 1}, ["q1"]),
        (["server_error", "timeout", "unreadable"], {}, []),
        ([None], {}, ["q0"]),
        (["other"], {}, ["q0"]),
    ],
)
def test_a_draft_without_an_answer_needs_a_bad_answer_of_its_cause(failures: list[str | None], explained: dict[str, int], unexplained: list[str]) -> None:
    records = failed_drafts(*failures)
    counts = {FailureCause(cause): count for cause, count in explained.items()}
    verdict = check(records.sent, records.seen, {}, healed_s=HEALED_S, bound_s=BOUND_S, explained=counts)
    assert found(verdict) == [(AnomalyKind.UNEXPLAINED, DRAFTS.name, id) for id in unexplained]


def test_an_answer_that_shows_reasoning_is_an_anomaly() -> None:
    records = clean()
    records.seen[-1] = replace(records.seen[-1], shows_reasoning=True)
    assert found(judged(records)) == [(AnomalyKind.REASONING, RESPONSES.name, "q3")]


def test_a_query_with_unknown_outcome_may_be_answered_or_not() -> None:
    records = clean()
    records.ask("q4", outcome=SendOutcome.INFO)
    records.answer("q4")
    records.ask("q5", outcome=SendOutcome.INFO, stored=False)
    assert judged(records).is_valid


def test_a_response_to_an_unsent_query_is_a_phantom() -> None:
    records = clean()
    records.answer("unsent")
    records.ask("q4", outcome=SendOutcome.FAIL, stored=False)
    records.answer("q4")
    assert {(kind, id) for kind, _, id in found(judged(records))} == {(AnomalyKind.PHANTOM, "unsent"), (AnomalyKind.PHANTOM, "q4")}


def test_a_second_response_is_a_duplicate_with_a_cause() -> None:
    records = clean()
    records.record(RESPONSES.name, "q1")
    verdict = judged(records)
    assert found(verdict) == [(AnomalyKind.DUPLICATE, RESPONSES.name, "q1")]
    assert verdict.anomalies[0].where == "responses-0@0 responses-0@3"
    assert {cause for cause, count in verdict.causes.items() if count} == {"made-here"}


def test_a_second_response_to_a_repeated_context_has_its_own_cause() -> None:
    records = clean()
    records.record(CONTEXTS.name, "q1")
    records.record(RESPONSES.name, "q1")
    verdict = judged(records)
    assert found(verdict) == [(AnomalyKind.DUPLICATE, RESPONSES.name, "q1")]
    assert verdict.causes["context-twice"] == 1


def test_a_second_draft_is_a_duplicate_and_a_second_context_is_not() -> None:
    records = clean()
    records.record(CONTEXTS.name, "q2")
    assert judged(records).is_valid
    records.record(DRAFTS.name, "q1")
    assert found(judged(records)) == [(AnomalyKind.DUPLICATE, DRAFTS.name, "q1")]


def test_one_record_read_twice_is_no_duplicate() -> None:
    records = clean()
    records.seen += records.seen
    assert judged(records).is_valid


def test_a_query_that_is_on_its_topic_twice_may_be_answered_twice() -> None:
    records = clean()
    records.record(QUERIES.name, "q1")
    records.answer("q1")
    verdict = judged(records)
    assert verdict.is_valid
    assert verdict.observed["queries_on_topic_twice"] == 1


def test_a_repeat_with_another_id_is_counted() -> None:
    records = clean()
    records.record(RESPONSES.name, "q1", id="made up")
    assert judged(records).observed["repeats_with_another_id"] == 1


def test_feedback_without_an_outcome_is_counted() -> None:
    records = clean()
    for query in ("q1", "q2"):
        records.record(FEEDBACK.name, query)
    for _ in range(3):
        records.record(OUTCOMES.name, "q1")
    verdict = judged(records)
    assert verdict.is_valid
    assert (verdict.observed["feedback_without_outcome"], verdict.observed["outcomes_repeated"]) == (1, 2)


def test_a_response_too_late_after_healing_is_unseen() -> None:
    records = clean()
    records.ask("late")
    records.answer("late", at_s=HEALED_S + BOUND_S + 0.1)
    records.ask("in time")
    records.answer("in time", at_s=HEALED_S + BOUND_S)
    assert found(judged(records)) == [(AnomalyKind.UNSEEN, RESPONSES.name, "late")]


def test_after_healing_the_bound_counts_from_the_acknowledgement() -> None:
    records = clean()
    records.ask("q4", at_s=HEALED_S + 20)
    records.answer("q4", at_s=HEALED_S + 20 + BOUND_S)
    assert judged(records).is_valid


def test_a_system_that_never_healed_has_only_lost_queries_unseen() -> None:
    records = clean()
    records.ask("q4")
    assert {kind for kind, _, _ in found(judged(records, healed_s=None))} == {AnomalyKind.LOST_WRITE, AnomalyKind.UNSEEN}


def test_reading_an_aborted_or_uncommitted_record_is_an_anomaly() -> None:
    fates: Fates = {
        (RESPONSES.name, 0): {0: RecordFate.COMMITTED, 1: RecordFate.ABORTED, 2: RecordFate.OPEN},
        (DRAFTS.name, 0): {0: RecordFate.COMMITTED, 1: RecordFate.COMMITTED},
    }
    verdict = judged(clean(), fates)
    assert {anomaly.kind for anomaly in verdict.anomalies} == {AnomalyKind.ABORTED_READ}
    assert {anomaly.where for anomaly in verdict.anomalies} == {"responses-0@1 aborted", "responses-0@2 open", "drafts-0@2 not in the log"}


def test_a_committed_record_must_be_read() -> None:
    fates: Fates = {(RESPONSES.name, 0): dict.fromkeys(range(4), RecordFate.COMMITTED), (OUTCOMES.name, 0): {0: RecordFate.COMMITTED}}
    verdict = judged(clean(), fates)
    assert [(anomaly.kind, anomaly.where) for anomaly in verdict.anomalies] == [(AnomalyKind.UNREAD, "responses-0@3")]


def test_out_of_order_answers_are_anomalies_only_with_order_per_key() -> None:
    records = RecordBuilder()
    for query, user in (("q1", "ada"), ("q2", "ada"), ("q3", "bob")):
        records.ask(query, user=user)
    for query, user in (("q3", "bob"), ("q2", "ada"), ("q1", "ada")):
        records.answer(query, user=user)
    assert judged(records).is_valid
    assert judged(records).counts["out-of-order"] == 1
    assert judged(records).observed["keys_out_of_order"] == 1
    assert found(judged(records, ordered=True)) == [(AnomalyKind.OUT_OF_ORDER, RESPONSES.name, "q1")]


@pytest.mark.parametrize(
    ("acknowledged_s", "by_s"),
    [
        (0.0, 30.0),  # due before the first disturbance begins
        (15.0, 90.0),  # due while it lasts
        (50.0, 90.0),  # acknowledged while it lasts
        (61.0, 91.0),  # acknowledged between the two
        (75.0, 160.0),  # due after the second has begun
        (131.0, 161.0),  # acknowledged after all
    ],
)
def test_answers_are_due_after_the_disturbance_that_may_delay_them(acknowledged_s: float, by_s: float) -> None:
    disturbances = [Disturbance(40.0, 60.0), Disturbance(100.0, 130.0)]
    assert answered_by_s(acknowledged_s, disturbances, BOUND_S) == by_s


def test_an_answer_that_comes_late_after_one_of_several_disturbances_is_unseen() -> None:
    records = clean()
    records.ask("q4", at_s=45.0)
    records.answer("q4", at_s=91.0)
    disturbances = [Disturbance(40.0, 60.0), Disturbance(100.0, 130.0)]
    verdict = check(records.sent, records.seen, {}, healed_s=131.0, bound_s=BOUND_S, disturbances=disturbances)
    assert found(verdict) == [(AnomalyKind.UNSEEN, RESPONSES.name, "q4")]


def test_a_record_that_one_broker_lacks_is_found() -> None:
    whole: Fates = {(QUERIES.name, 0): dict.fromkeys(range(3), RecordFate.COMMITTED) | {3: RecordFate.ABORTED}}
    other: Fates = {(QUERIES.name, 0): {0: RecordFate.COMMITTED, 1: RecordFate.ABORTED}}
    replicas = {"broker-1": whole, "broker-2": other, "broker-3": whole}
    records = clean()
    verdict = check(records.sent, records.seen, {}, healed_s=HEALED_S, bound_s=BOUND_S, replicas=replicas)
    assert [(anomaly.kind, anomaly.where) for anomaly in verdict.anomalies] == [
        (AnomalyKind.REPLICA, "queries-0@1 broker-2: aborted"),
        (AnomalyKind.REPLICA, "queries-0@2 broker-2: not in the log"),
    ]


def test_equal_replicas_are_no_anomaly() -> None:
    fates: Fates = {(QUERIES.name, 0): {0: RecordFate.COMMITTED, 1: RecordFate.OPEN}}
    assert check([], [], {}, healed_s=HEALED_S, bound_s=BOUND_S, replicas={"broker-1": fates, "broker-2": fates}).is_valid


def test_an_expired_query_may_overtake_and_the_others_keep_their_order() -> None:
    records = RecordBuilder()
    for query in ("q1", "q2", "q3"):
        records.ask(query)
    for query in ("q1", "q3"):
        records.record(RETRIEVALS.name, query)
    for query in ("q2", "q3", "q1"):
        records.record(RESPONSES.name, query)
    verdict = judged(records, ordered=True)
    assert [anomaly.id for anomaly in verdict.anomalies if anomaly.kind is AnomalyKind.OUT_OF_ORDER] == ["q1"]
