from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from infra.kafka.forwarding import Forwarder, partition_of
from schemas.dead_letters import is_id_conflict
from schemas.envelope import read_message
from schemas.interactions import Interaction, Origin
from schemas.outcomes import Outcome
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import FEEDBACK, JOIN_STATE_CHANGELOG, RESPONSES
from streams.app.join_state import FORWARDED_TO, JoinState, PendingRecords
from streams.history.processor import HistoryProcessor
from streams.index.tenant_filter import Scope
from streams.outcomes.processor import PENDING_FEEDBACK, OutcomesProcessor
from tests.support.streams_fakes import TRACE, MemoryIndex, WordEmbedder, consumed_record, feedback, query, response


class Join:
    """The processor with a clock moved by hand, and a mapping that a restart finds again in the changelog."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.changelog: list[ProducedRecord] = []
        self.restart()

    def restart(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        for record in self.changelog:
            assert record.key is not None
            if record.value is None:
                self.entries.pop(record.key, None)
            else:
                self.entries[record.key] = record.value
        self.processor = OutcomesProcessor(JoinState(self.entries), join_window_s=3600, assigned=lambda: {0, 1}, now=lambda: self.now)

    async def handle(self, *records: ConsumedRecord) -> list[ProducedRecord]:
        """What goes to topics other than the changelog."""
        produced = await self.processor.handle(records)
        self.changelog += [record for record in produced if record.topic == JOIN_STATE_CHANGELOG]
        return [record for record in produced if record.topic != JOIN_STATE_CHANGELOG]


def response_record(question: Any, **where: int) -> ConsumedRecord:
    return consumed_record(RESPONSES.name, response(question), **where)


def feedback_record(user_feedback: Any, **where: int) -> ConsumedRecord:
    return consumed_record(FEEDBACK.name, user_feedback, **where)


def topics(records: list[ProducedRecord]) -> list[str]:
    return [record.topic for record in records]


@pytest.mark.parametrize("feedback_first", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
async def test_response_and_feedback_join_in_either_order(feedback_first: bool, restarted: bool) -> None:
    join, question = Join(), query()
    user_feedback = feedback(question, score=0.5)
    pair = [response_record(question), feedback_record(user_feedback)]
    first, second = reversed(pair) if feedback_first else pair
    assert await join.handle(first) == []
    if restarted:
        join.restart()
    outcome, own = await join.handle(second)
    made = read_message(Outcome, outcome.headers, outcome.value)[0]
    assert made == Outcome.joined(response(question), user_feedback)
    assert (outcome.topic, outcome.key, own.topic, own.key) == ("outcomes", b"acme/alice", "interactions", b"acme/alice")
    assert dict(outcome.headers)["traceparent"] == TRACE.encode()


async def test_the_users_text_becomes_history_and_model_text_never() -> None:
    join, question = Join(), query("what to watch")
    user_feedback = feedback(question, truth="my words")
    _, own = await join.handle(response_record(question), feedback_record(user_feedback))
    made = read_message(Interaction, own.headers, own.value)[0]
    assert (made.content, made.response, made.domain) == ("what to watch", "my words", question.domain)
    assert (made.origin, made.occurred_at) == (Origin.FEEDBACK, user_feedback.occurred_at)
    assert b"model words" not in (own.value or b"")


async def test_feedback_dated_before_its_query_is_not_retrieved_for_it() -> None:
    join, question = Join(), query("about the sea")
    early = feedback(question).model_copy(update={"occurred_at": question.asked_at - timedelta(days=1)})
    outcome, own = await join.handle(response_record(question), feedback_record(early))
    assert read_message(Interaction, own.headers, own.value)[0].occurred_at == question.asked_at
    assert read_message(Outcome, outcome.headers, outcome.value)[0].occurred_at == early.occurred_at
    index, embedder = MemoryIndex(), WordEmbedder()
    await HistoryProcessor(embedder, index, batch=8).handle([ConsumedRecord(own.topic, 0, 0, 0, own.key, own.value, tuple(own.headers))])
    scope, (vector,) = Scope(question.tenant, question.user), await embedder.embed([question.text])
    assert await index.search(scope, vector, question.asked_at, question.domain, 6) == []
    assert len(await index.search(scope, vector, question.asked_at + timedelta(microseconds=1), question.domain, 6)) == 1


@pytest.mark.parametrize("truth", [None, " \n", "\u200b\u3164"])
async def test_a_score_without_text_makes_an_outcome_and_no_interaction(truth: str | None) -> None:
    join, question = Join(), query()
    assert topics(await join.handle(response_record(question), feedback_record(feedback(question, truth, score=1.0)))) == ["outcomes"]


async def test_a_response_too_large_for_the_changelog_is_set_aside() -> None:
    record = response_record(query())
    [letter] = await Join().handle(replace(record, value=b" " * 3_000_000 + (record.value or b"")))
    assert (letter.topic, letter.value) == ("responses-dlt", b"")


async def test_feedback_that_waits_for_one_response_is_limited_in_number() -> None:
    join, question = Join(), query()
    records = [feedback_record(feedback(question).model_copy(update={"feedback_id": UUID(int=n)}), offset=n) for n in range(PENDING_FEEDBACK + 2)]
    assert topics(await join.handle(*records)) == ["feedback-dlt"] * 2
    joined = await join.handle(response_record(question))
    assert topics(joined).count("outcomes") == PENDING_FEEDBACK


async def test_repeats_get_the_same_ids() -> None:
    join, question = Join(), query()
    user_feedback = feedback_record(feedback(question), offset=5)
    once = await join.handle(response_record(question), user_feedback)
    again = await join.handle(response_record(question), user_feedback, user_feedback)
    ids = {(record.topic, dict(record.headers)["ce_id"]) for record in once + again}
    assert len(ids) == 2


async def test_feedback_read_twice_before_its_response_waits_once() -> None:
    join, question = Join(), query()
    user_feedback = feedback_record(feedback(question), offset=5)
    await join.handle(user_feedback)
    written = len(join.changelog)
    await join.handle(user_feedback, user_feedback)
    assert len(join.changelog) == written, "a repeat changes nothing"
    assert topics(await join.handle(response_record(question))) == ["outcomes", "interactions"]


async def test_a_user_may_give_feedback_twice() -> None:
    join, question = Join(), query()
    first = await join.handle(response_record(question), feedback_record(feedback(question, "one"), offset=1))
    second = await join.handle(feedback_record(feedback(question, "two"), offset=2))
    assert topics(first + second) == ["outcomes", "interactions"] * 2
    assert dict(first[0].headers)["ce_id"] != dict(second[0].headers)["ce_id"]


@pytest.mark.parametrize("feedback_first", [False, True])
async def test_feedback_of_another_user_is_dead_lettered(feedback_first: bool) -> None:
    join, question = Join(), query(user="alice")
    forged = feedback_record(feedback(question, user="bob"), partition=0, offset=8)
    pair = [forged, response_record(question)] if feedback_first else [response_record(question), forged]
    assert await join.handle(*pair) == [], "the other user may have a query with this id too"
    join.now += 3601
    (letter,) = await join.handle()
    assert (letter.topic, letter.key, letter.value) == ("feedback-dlt", b"acme/bob", forged.value)
    assert dict(letter.headers)["kafka_dlt-exception-message"] == b"no response to its query came within 3600 s"


@pytest.mark.parametrize("feedback_first", [False, True])
async def test_two_users_queries_with_one_id_are_joined_apart(feedback_first: bool) -> None:
    join, question = Join(), query(user="alice")
    same_id = query("theirs", user="bob", query_id=question.query_id)
    responses = [response_record(question), response_record(same_id, offset=1)]
    said = [feedback_record(feedback(same_id, "bob's"), offset=2), feedback_record(feedback(question, "alice's"), offset=3)]
    produced = await join.handle(*(said + responses if feedback_first else responses + said))
    outcomes = [read_message(Outcome, record.headers, record.value)[0] for record in produced if record.topic == "outcomes"]
    assert sorted((outcome.key, outcome.truth) for outcome in outcomes) == [(b"acme/alice", "alice's"), (b"acme/bob", "bob's")]


async def test_another_query_under_the_id_of_an_answered_one_is_dead_lettered() -> None:
    join, question = Join(), query("the sea")
    other = query("the war", query_id=question.query_id)
    (letter,) = await join.handle(response_record(question, offset=6), response_record(other, offset=7))
    assert letter.topic == "responses-dlt" and is_id_conflict(letter.headers)
    assert b"other content: responses/1/6" in dict(letter.headers)["kafka_dlt-exception-message"]
    outcome, _ = await join.handle(feedback_record(feedback(question)))
    assert read_message(Outcome, outcome.headers, outcome.value)[0].response == response(question)


async def test_a_response_made_twice_from_one_query_is_a_repeat() -> None:
    join, question = Join(), query()
    again = consumed_record(RESPONSES.name, response(question, "other model words"), offset=1)
    assert await join.handle(response_record(question), again) == []


@pytest.mark.parametrize("response_first", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
async def test_other_words_under_the_id_of_earlier_feedback_are_dead_lettered(response_first: bool, restarted: bool) -> None:
    join, question = Join(), query()
    said = feedback(question, "one")
    other = feedback_record(said.model_copy(update={"truth": "two"}), offset=5)
    asked, first, repeat = response_record(question), feedback_record(said, offset=4), feedback_record(said, offset=6)
    await join.handle(*([asked, first] if response_first else [first]))
    if restarted:
        join.restart()
    (letter,) = await join.handle(other)
    assert letter.topic == "feedback-dlt" and b"feedback/1/4" in dict(letter.headers)["kafka_dlt-exception-message"]
    assert topics(await join.handle(*([repeat] if response_first else [repeat, asked]))) == ["outcomes", "interactions"], "a repeat is joined again"
    (letter,) = await join.handle(replace(other, offset=7))
    assert is_id_conflict(letter.headers)


@pytest.mark.parametrize("waiting", [False, True], ids=["joined", "waiting"])
async def test_one_feedback_id_for_two_queries_is_a_conflict(waiting: bool) -> None:
    join, asked, asked_again = Join(), query(), query()
    said = feedback(asked)
    under_its_id = said.model_copy(update={"query_id": asked_again.query_id})
    records = [feedback_record(said, offset=4), feedback_record(under_its_id, offset=5)]
    responses = [response_record(asked), response_record(asked_again, offset=1)]
    produced = await join.handle(*(records + responses if waiting else responses + records))
    assert sorted(topics(produced)) == ["feedback-dlt", "interactions", "outcomes"]
    [letter] = [record for record in produced if record.topic == "feedback-dlt"]
    assert is_id_conflict(letter.headers) and b"feedback/1/4" in dict(letter.headers)["kafka_dlt-exception-message"]


async def test_two_users_feedback_with_one_id_is_no_conflict() -> None:
    join, asked, theirs = Join(), query(), query(user="bob")
    said = feedback(asked)
    same_id = feedback(theirs).model_copy(update={"feedback_id": said.feedback_id})
    records = [response_record(asked), response_record(theirs, offset=1), feedback_record(said), feedback_record(same_id, offset=1)]
    assert sorted(topics(await join.handle(*records))) == ["interactions"] * 2 + ["outcomes"] * 2


async def test_joined_feedback_is_remembered_in_little_space() -> None:
    join, question = Join(), query()
    many = [feedback_record(feedback(question, "x" * 30_000), offset=n) for n in range(300)]
    produced = await join.handle(response_record(question), *many)
    assert topics(produced).count("outcomes") == 300
    assert sum(map(len, join.entries.values())) < 300 * 200


async def test_a_conflict_in_waiting_feedback_under_legacy_keys() -> None:
    """Its fingerprint is stored only at the join."""
    join, asked, asked_again = Join(), query(), query()
    said = feedback(asked)
    for offset, question in enumerate((asked, asked_again)):
        record = feedback_record(said.model_copy(update={"query_id": question.query_id}), offset=offset)
        join.entries[b"f" + question.query_id.bytes] = PendingRecords(round(join.now * 1000), 1, (record,)).to_bytes()
    assert topics(await join.handle(response_record(asked))) == ["outcomes", "interactions"]
    [letter] = await join.handle(response_record(asked_again, offset=1))
    assert letter.topic == "feedback-dlt" and is_id_conflict(letter.headers)


async def test_entries_under_legacy_keys_are_joined() -> None:
    """Their keys are the query id alone."""
    join, answered, commented = Join(), query(), query()
    said, heard = feedback_record(feedback(commented), offset=1), response_record(answered)
    join.entries[b"r" + answered.query_id.bytes] = PendingRecords(round(join.now * 1000), 1, (heard,)).to_bytes()
    join.entries[b"f" + commented.query_id.bytes] = PendingRecords(round(join.now * 1000), 1, (said,)).to_bytes()
    theirs = query(user="bob", query_id=answered.query_id)
    assert await join.handle(response_record(theirs, offset=9)) == []
    assert topics(await join.handle(feedback_record(feedback(answered), offset=2))) == ["outcomes", "interactions"]
    assert topics(await join.handle(response_record(commented, offset=3))) == ["outcomes", "interactions"]
    assert b"f" + commented.query_id.bytes not in join.entries
    join.now += 3601
    assert await join.handle() == []
    assert join.entries == {}


async def test_unreadable_feedback_under_a_legacy_key_is_dead_lettered_alone() -> None:
    """Its truth has no visible character."""
    join, question = Join(), query()
    invisible = feedback_record(feedback(question).model_copy(update={"truth": "\u200b"}), offset=1)
    readable, later = feedback_record(feedback(question), offset=2), feedback_record(feedback(question), offset=3)
    join.entries[b"f" + question.query_id.bytes] = PendingRecords(round(join.now * 1000), 1, (readable, invisible)).to_bytes()
    produced = await join.handle(later, response_record(question))
    assert topics(produced) == ["outcomes", "interactions", "feedback-dlt", "outcomes", "interactions"]
    join.entries[b"f" + question.query_id.bytes] = PendingRecords(round(join.now * 1000), 1, (invisible,)).to_bytes()
    assert topics(await join.handle(later)) == ["outcomes", "interactions"]
    join.now += 3601
    assert topics(await join.handle()) == ["feedback-dlt"]


async def test_old_feedback_is_dead_lettered_and_an_old_response_dropped() -> None:
    join, lonely, unheard = Join(), query(), query()
    user_feedback = feedback_record(feedback(lonely), offset=3)
    await join.handle(user_feedback, response_record(unheard))
    join.now += 3599
    assert await join.handle() == []
    join.now += 3600
    (letter,) = await join.handle()
    assert (letter.topic, letter.value) == ("feedback-dlt", user_feedback.value)
    assert b"no response to its query came within 3600 s" in dict(letter.headers)["kafka_dlt-exception-message"]
    assert join.entries == {}
    join.restart()
    assert join.entries == {}


async def test_old_entries_of_unassigned_partitions_are_dropped_silently() -> None:
    join = Join()
    await join.handle(feedback_record(feedback(query()), partition=3))
    changes = len(join.changelog)
    join.now += 7200
    assert await join.handle() == []
    assert join.entries == {}
    assert len(join.changelog) == changes


async def test_a_changelog_record_goes_to_the_partition_of_its_source() -> None:
    join, question = Join(), query()
    await join.handle(feedback_record(feedback(question), partition=0), response_record(question, partition=1))
    assert [(record.partition, record.value is None) for record in join.changelog] == [(0, False), (0, False), (1, False), (0, True)]


async def test_too_much_pending_feedback_is_dead_lettered() -> None:
    join, question = Join(), query()
    flood = [feedback_record(feedback(question, "x" * 30_000), offset=n) for n in range(40)]
    letters = await join.handle(*flood)
    assert set(topics(letters)) == {"feedback-dlt"}
    joined = await join.handle(response_record(question))
    assert 20 < len(letters) + topics(joined).count("outcomes") == 40


async def test_a_bad_record_is_dead_lettered_and_the_others_continue() -> None:
    join, question = Join(), query()
    bad = replace(feedback_record(feedback(question)), value=b"{}")
    assert topics(await join.handle(response_record(question), bad, feedback_record(feedback(question)))) == ["feedback-dlt", "outcomes", "interactions"]


async def test_misplaced_feedback_is_forwarded_in_order_and_joined_from_its_copy_once() -> None:
    join, question = Join(), query()
    join.processor = OutcomesProcessor(JoinState(join.entries), join_window_s=3600, assigned=lambda: {0, 1, 2, 3}, forwarder=Forwarder(lambda topic: 4))
    home = partition_of(question.key, 4)
    first, second = feedback(question, score=0.5), feedback(question, "other words")
    misplaced = [feedback_record(each, partition=(home + 1) % 4, offset=n) for n, each in enumerate((first, second))]
    copies = await join.handle(response_record(question, partition=home), *misplaced)
    assert [(copy.topic, copy.value) for copy in copies] == [("feedback", record.value) for record in misplaced]
    read = [replace(record, partition=home, offset=8 + n, headers=copy.headers) for n, (record, copy) in enumerate(zip(misplaced, copies, strict=True))]
    produced = await join.handle(*read, read[0])
    outcomes = [read_message(Outcome, record.headers, record.value)[0] for record in produced if record.topic == "outcomes"]
    assert [(outcome.truth, outcome.score) for outcome in outcomes[:2]] == [(first.truth, first.score), (second.truth, second.score)]
    assert outcomes[2] == outcomes[0], "a copy that is written twice repeats its outcome, under the same id"


def test_the_offsets_of_forwarded_records_never_expire() -> None:
    state = JoinState(entries := {FORWARDED_TO + bytes(4): bytes(8)})
    assert list(state.expire(2**60, {0})) == []
    assert entries == {FORWARDED_TO + bytes(4): bytes(8)}
