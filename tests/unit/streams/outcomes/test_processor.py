from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from schemas.envelope import read_message
from schemas.interactions import Interaction, Origin
from schemas.outcomes import Outcome
from schemas.produced_records import ProducedRecord
from schemas.topics import FEEDBACK, RESPONSES
from streams.app.join_state import CHANGELOG, JoinState
from streams.app.records import ConsumedRecord
from streams.history.processor import HistoryProcessor
from streams.index.tenant_filter import Scope
from streams.outcomes.processor import OutcomesProcessor
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
        self.changelog += [record for record in produced if record.topic == CHANGELOG]
        return [record for record in produced if record.topic != CHANGELOG]


def answered(asked: Any, **where: int) -> ConsumedRecord:
    return consumed_record(RESPONSES.name, response(asked), **where)


def said(told: Any, **where: int) -> ConsumedRecord:
    return consumed_record(FEEDBACK.name, told, **where)


def topics(records: list[ProducedRecord]) -> list[str]:
    return [record.topic for record in records]


@pytest.mark.parametrize("feedback_first", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
async def test_response_and_feedback_join_in_either_order(feedback_first: bool, restarted: bool) -> None:
    join, asked = Join(), query()
    told = feedback(asked, score=0.5)
    halves = [answered(asked), said(told)]
    first, second = reversed(halves) if feedback_first else halves
    assert await join.handle(first) == []
    if restarted:
        join.restart()
    outcome, own = await join.handle(second)
    made = read_message(Outcome, outcome.headers, outcome.value)[0]
    assert made == Outcome.joined(response(asked), told)
    assert (outcome.topic, outcome.key, own.topic, own.key) == ("outcomes", b"acme/alice", "interactions", b"acme/alice")
    assert dict(outcome.headers)["traceparent"] == TRACE.encode()


async def test_the_users_text_becomes_history_and_model_text_never() -> None:
    join, asked = Join(), query("what to watch")
    told = feedback(asked, truth="my words")
    _, own = await join.handle(answered(asked), said(told))
    made = read_message(Interaction, own.headers, own.value)[0]
    assert (made.content, made.response, made.domain) == ("what to watch", "my words", asked.domain)
    assert (made.origin, made.occurred_at) == (Origin.FEEDBACK, told.occurred_at)
    assert b"model words" not in (own.value or b"")


async def test_feedback_dated_before_its_query_is_not_retrieved_for_it() -> None:
    join, asked = Join(), query("about the sea")
    early = feedback(asked).model_copy(update={"occurred_at": asked.asked_at - timedelta(days=1)})
    outcome, own = await join.handle(answered(asked), said(early))
    assert read_message(Interaction, own.headers, own.value)[0].occurred_at == asked.asked_at
    assert read_message(Outcome, outcome.headers, outcome.value)[0].occurred_at == early.occurred_at
    index, embedder = MemoryIndex(), WordEmbedder()
    await HistoryProcessor(embedder, index, batch=8).handle([ConsumedRecord(own.topic, 0, 0, 0, own.key, own.value, tuple(own.headers))])
    scope, (vector,) = Scope(asked.tenant, asked.user), await embedder.embed([asked.text])
    assert await index.search(scope, vector, asked.asked_at, asked.domain, 6) == []
    assert len(await index.search(scope, vector, asked.asked_at + timedelta(microseconds=1), asked.domain, 6)) == 1


@pytest.mark.parametrize("truth", [None, " \n"])
async def test_a_score_without_text_makes_an_outcome_and_no_interaction(truth: str | None) -> None:
    join, asked = Join(), query()
    assert topics(await join.handle(answered(asked), said(feedback(asked, truth, score=1.0)))) == ["outcomes"]


async def test_repeats_get_the_same_ids() -> None:
    join, asked = Join(), query()
    told = said(feedback(asked), offset=5)
    once = await join.handle(answered(asked), told)
    again = await join.handle(answered(asked), told, told)
    ids = {(record.topic, dict(record.headers)["ce_id"]) for record in once + again}
    assert len(ids) == 2


async def test_feedback_read_twice_before_its_response_waits_once() -> None:
    join, asked = Join(), query()
    told = said(feedback(asked), offset=5)
    await join.handle(told, told)
    assert topics(await join.handle(answered(asked))) == ["outcomes", "interactions"]


async def test_a_user_may_give_feedback_twice() -> None:
    join, asked = Join(), query()
    first = await join.handle(answered(asked), said(feedback(asked, "one"), offset=1))
    second = await join.handle(said(feedback(asked, "two"), offset=2))
    assert topics(first + second) == ["outcomes", "interactions"] * 2
    assert dict(first[0].headers)["ce_id"] != dict(second[0].headers)["ce_id"]


@pytest.mark.parametrize("feedback_first", [False, True])
async def test_feedback_of_another_user_is_dead_lettered(feedback_first: bool) -> None:
    join, asked = Join(), query(user="alice")
    forged = said(feedback(asked, user="bob"), partition=0, offset=8)
    halves = [forged, answered(asked)] if feedback_first else [answered(asked), forged]
    (letter,) = await join.handle(*halves)
    assert (letter.topic, letter.key, letter.value) == ("feedback-dlt", b"acme/bob", forged.value)
    assert dict(letter.headers)["kafka_dlt-exception-message"] == b"its tenant or user is not that of its query"


async def test_a_query_id_taken_from_another_user_changes_nothing() -> None:
    join, asked = Join(), query(user="alice")
    stolen = query("theirs", user="bob", query_id=asked.query_id)
    assert topics(await join.handle(answered(asked), answered(stolen, offset=1))) == ["responses-dlt"]
    assert topics(await join.handle(said(feedback(asked)))) == ["outcomes", "interactions"]


async def test_old_feedback_is_dead_lettered_and_an_old_response_dropped() -> None:
    join, lonely, unheard = Join(), query(), query()
    told = said(feedback(lonely), offset=3)
    await join.handle(told, answered(unheard))
    join.now += 3599
    assert await join.handle() == []
    join.now += 3600
    (letter,) = await join.handle()
    assert (letter.topic, letter.value) == ("feedback-dlt", told.value)
    assert b"no response to its query came within 3600 s" in dict(letter.headers)["kafka_dlt-exception-message"]
    assert join.entries == {}
    join.restart()
    assert join.entries == {}


async def test_old_entries_of_unassigned_partitions_are_dropped_silently() -> None:
    join = Join()
    await join.handle(said(feedback(query()), partition=3))
    changes = len(join.changelog)
    join.now += 7200
    assert await join.handle() == []
    assert join.entries == {}
    assert len(join.changelog) == changes


async def test_a_changelog_record_goes_to_the_partition_of_its_source() -> None:
    join, asked = Join(), query()
    await join.handle(said(feedback(asked), partition=0), answered(asked, partition=1))
    assert [(record.partition, record.value is None) for record in join.changelog] == [(0, False), (1, False), (0, True)]


async def test_too_much_pending_feedback_is_dead_lettered() -> None:
    join, asked = Join(), query()
    flood = [said(feedback(asked, "x" * 30_000), offset=n) for n in range(40)]
    letters = await join.handle(*flood)
    assert set(topics(letters)) == {"feedback-dlt"}
    joined = await join.handle(answered(asked))
    assert 20 < len(letters) + topics(joined).count("outcomes") == 40


async def test_a_bad_record_is_dead_lettered_and_the_others_continue() -> None:
    join, asked = Join(), query()
    bad = replace(said(feedback(asked)), value=b"{}")
    assert topics(await join.handle(answered(asked), bad, said(feedback(asked)))) == ["feedback-dlt", "outcomes", "interactions"]
