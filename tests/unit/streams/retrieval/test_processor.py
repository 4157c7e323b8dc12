from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from infra.errors import RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from schemas.contexts import AfterStatus, Context, HistoryItem, RetrievalStatus
from schemas.drafts import DraftStatus
from schemas.envelope import read_message
from schemas.ids import derive
from schemas.lookups import Retrieval
from schemas.positions import Source
from schemas.queries import Query
from schemas.records import ProducedRecord
from schemas.strategies import Strategy
from schemas.topics import DRAFTS, INTERACTIONS, LOOKUPS
from streams.embedding.embedder import Matrix
from streams.history.processor import HistoryProcessor
from streams.index.history_index import SearchRequest
from streams.index.progress import IndexProgress
from streams.retrieval.processor import CONTEXT_BYTES, LookupKind, LookupProcessor, RetrievalProcessor, context_of, query_text
from streams.retrieval.search import ATTEMPTS, FIRST_PAUSE_S, LONGEST_PAUSE_S
from tests.support.streams_fakes import NOON, TRACE, MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, draft, interaction, lookup, query, search


def context(record: ProducedRecord) -> Context:
    return read_message(Context, record.headers, record.value)[0]


async def indexed(*interactions: object) -> MemoryIndex:
    index = MemoryIndex()
    await HistoryProcessor(WordEmbedder(), index, batch=64).handle([consumed_record(INTERACTIONS.name, each, offset=n) for n, each in enumerate(interactions)])  # type: ignore[arg-type]
    return index


async def test_a_draft_becomes_a_context_with_the_nearest_items_first() -> None:
    index = await indexed(interaction("war"), interaction("sea"), interaction("love"))
    question = query("a film about the sea")
    (record,) = await RetrievalProcessor(search(WordEmbedder(), index), k_max=2).handle([consumed_record(DRAFTS.name, draft(question))])
    made = context(record)
    assert made.items[0].content == "about sea"
    assert len(made.items) == made.k_max == 2
    assert made.draft.query == question
    assert made.retrieve_ms > 0


async def test_a_context_has_the_users_key_a_derived_id_and_the_trace() -> None:
    question = query()
    (record,) = await RetrievalProcessor(search(WordEmbedder(), MemoryIndex()), k_max=2).handle([consumed_record(DRAFTS.name, draft(question))])
    _, envelope = read_message(Context, record.headers, record.value)
    assert (record.topic, record.key) == ("contexts", b"acme/alice")
    assert envelope.id == str(derive("context", question.query_id))
    assert envelope.traceparent == TRACE


async def test_retrieval_sees_only_the_users_own_past_of_the_domain() -> None:
    asked_at = NOON + timedelta(days=1)
    index = await indexed(
        interaction("mine", content="sea"),
        interaction("bobs", content="sea", user="bob"),
        interaction("later", content="sea", at=asked_at),
        interaction("other", content="sea", domain="tweet"),
    )
    (record,) = await RetrievalProcessor(search(WordEmbedder(), index), k_max=6).handle([consumed_record(DRAFTS.name, draft(query()))])
    assert [item.interaction_id for item in context(record).items] == [interaction("mine").interaction_id]


async def test_several_drafts_share_one_urgent_call_and_keep_their_order() -> None:
    embedder = WordEmbedder()
    index = await indexed(interaction("sea"), interaction("war"))
    questions = [query("sea"), query("war"), query("sea")]
    records = await RetrievalProcessor(search(embedder, index), k_max=1).handle([consumed_record(DRAFTS.name, draft(each, answer="")) for each in questions])
    assert [context(r).draft.query.query_id for r in records] == [each.query_id for each in questions]
    assert [context(r).items[0].content for r in records] == ["about sea", "about war", "about sea"]
    assert [(len(texts), urgent) for texts, urgent in embedder.calls] == [(3, True)]


async def test_several_drafts_share_one_search_and_its_second_attempt() -> None:
    for failures, calls in ((0, 1), (1, 2)):
        index = UnavailableIndex(times=failures)
        index.points = (await indexed(interaction("sea"), interaction("war"))).points
        records = [consumed_record(DRAFTS.name, draft(query(text), answer="")) for text in ("sea", "war")]
        contexts = [context(record) for record in await RetrievalProcessor(search(WordEmbedder(), index), k_max=1).handle(records)]
        assert [made.items[0].content for made in contexts] == ["about sea", "about war"]
        assert index.calls == calls


async def test_a_failed_draft_gets_a_context_without_items() -> None:
    index = await indexed(interaction("sea"))
    drafts = [draft(query()), draft(query(), answer="", status=DraftStatus.BASE_FAILED), draft(query())]
    records = await RetrievalProcessor(search(WordEmbedder(), index), k_max=6).handle([consumed_record(DRAFTS.name, each) for each in drafts])
    assert [len(context(r).items) for r in records] == [1, 0, 1]


async def test_a_bad_draft_is_dead_lettered_and_the_others_get_contexts() -> None:
    good = consumed_record(DRAFTS.name, draft(query()))
    records = await RetrievalProcessor(search(WordEmbedder(), MemoryIndex()), k_max=6).handle([replace(good, value=b"[]"), good])
    assert [record.topic for record in records] == ["contexts", "drafts-dlt"]


async def test_a_repeated_draft_gets_the_same_context_id() -> None:
    retrieval = RetrievalProcessor(search(WordEmbedder(), MemoryIndex()), k_max=6)
    record = consumed_record(DRAFTS.name, draft(query()))
    ids = {dict(record.headers)["ce_id"] for record in await retrieval.handle([record, record])}
    assert len(ids) == 1


async def test_items_too_large_for_a_context_are_left_out_worst_first() -> None:
    huge = [interaction(f"sea {n}", content="é" * 32_000 + "sea" + "war" * n) for n in range(9)]
    (record,) = await RetrievalProcessor(search(WordEmbedder(), await indexed(*huge)), k_max=9).handle([consumed_record(DRAFTS.name, draft(query()))])
    assert record.value is not None
    assert len(record.value) <= CONTEXT_BYTES
    items = context(record).items
    assert 0 < len(items) < 9
    assert [item.interaction_id for item in items] == [each.interaction_id for each in huge[: len(items)]]


async def test_a_query_past_its_deadline_costs_neither_embedding_nor_search() -> None:
    index, embedder = UnavailableIndex(times=0), WordEmbedder()
    late = draft(query(deadline=NOON))
    (record,) = await RetrievalProcessor(search(embedder, index, now=lambda: NOON), k_max=6).handle([consumed_record(DRAFTS.name, late)])
    assert (context(record).items, context(record).retrieval) == ((), RetrievalStatus.DEADLINE_PASSED)
    assert (embedder.calls, index.calls) == ([], 0)


async def test_a_draft_without_an_answer_costs_neither_embedding_nor_search() -> None:
    index, embedder = UnavailableIndex(times=0), WordEmbedder()
    (record,) = await RetrievalProcessor(search(embedder, index), k_max=6).handle(
        [consumed_record(DRAFTS.name, draft(query(), answer="", status=DraftStatus.BASE_FAILED))]
    )
    assert context(record).retrieval is RetrievalStatus.NOT_NEEDED
    assert (embedder.calls, index.calls) == ([], 0)


async def test_one_failed_search_is_retried_at_once() -> None:
    index = UnavailableIndex(times=1)
    (record,) = await RetrievalProcessor(search(WordEmbedder(), index), k_max=6).handle([consumed_record(DRAFTS.name, draft(query()))])
    assert (context(record).retrieval, index.calls) == (RetrievalStatus.SEARCHED, 2)


async def test_contexts_go_out_without_items_while_the_index_is_away() -> None:
    index, embedder, clock = UnavailableIndex(times=99), WordEmbedder(), [0.0]
    index.points = (await indexed(interaction("sea"))).points
    retrieval = RetrievalProcessor(search(embedder, index, breaker=CircuitBreaker(FIRST_PAUSE_S, LONGEST_PAUSE_S, now=lambda: clock[0])), k_max=6)
    records = await retrieval.handle([consumed_record(DRAFTS.name, draft(query())) for _ in range(5)])
    assert [(context(r).items, context(r).retrieval) for r in records] == [((), RetrievalStatus.INDEX_AWAY)] * 5
    assert index.calls == ATTEMPTS, "the first query of a batch asks for all of them"
    embedder.calls.clear()
    (record,) = await retrieval.handle([consumed_record(DRAFTS.name, draft(query()))])
    assert (context(record).retrieval, index.calls, embedder.calls) == (RetrievalStatus.INDEX_AWAY, ATTEMPTS, [])
    index.failures_left = 0
    clock[0] += LONGEST_PAUSE_S
    (record,) = await retrieval.handle([consumed_record(DRAFTS.name, draft(query()))])
    assert context(record).retrieval is RetrievalStatus.SEARCHED and len(context(record).items) == 1


class AwayEmbedder(WordEmbedder):
    is_away = True

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        rows = await super().embed(texts, urgent=urgent)
        if self.is_away:
            raise RetryLater("the endpoint does not answer")
        return rows


async def test_only_queries_that_need_vectors_go_without_items_while_the_embedder_is_away() -> None:
    embedder = AwayEmbedder()
    retrieval = RetrievalProcessor(search(embedder, await indexed(interaction("sea"))), k_max=6)
    questions = [query(), query().model_copy(update={"strategy": Strategy.HYDRA}), query()]
    records = [consumed_record(DRAFTS.name, draft(each)) for each in questions]
    expected = [(RetrievalStatus.INDEX_AWAY, 0), (RetrievalStatus.SEARCHED, 1), (RetrievalStatus.INDEX_AWAY, 0)]
    assert [(context(r).retrieval, len(context(r).items)) for r in await retrieval.handle(records)] == expected
    assert [(context(r).retrieval, len(context(r).items)) for r in await retrieval.handle(records)] == expected
    assert len(embedder.calls) == 1, "during the pause the embedder is not asked"
    embedder.is_away = False
    await asyncio.sleep(2 * FIRST_PAUSE_S)
    assert context((await retrieval.handle(records))[0]).retrieval is RetrievalStatus.SEARCHED


@pytest.mark.parametrize(("search_s", "later"), [(5.0, 40), (0.03, None)])
async def test_a_search_that_hangs_ends_at_the_latest_deadline_or_its_bound(monkeypatch: pytest.MonkeyPatch, search_s: float, later: int | None) -> None:
    monkeypatch.setattr("streams.retrieval.search.SEARCH_S", search_s)
    index, breaker = UnavailableIndex(times=1, hangs=True), CircuitBreaker(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    queries = [query(deadline=None if ms is None else NOON + timedelta(milliseconds=ms)) for ms in (20, later)]
    records = await RetrievalProcessor(search(WordEmbedder(), index, now=lambda: NOON, breaker=breaker), k_max=6).handle(
        [consumed_record(DRAFTS.name, draft(each)) for each in queries]
    )
    second = RetrievalStatus.SEARCHED if later is None else RetrievalStatus.DEADLINE_PASSED
    assert [context(r).retrieval for r in records] == [RetrievalStatus.DEADLINE_PASSED, second]
    assert index.calls == (2 if later is None else 1), "after the bound of a search the others are searched again"
    assert not breaker.is_open


class SlowIndex(MemoryIndex):
    """Searches for 20 ms. Keeps the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        self.batches.append(len(requests))
        await asyncio.sleep(0.02)
        return await super().search_batch(requests)


async def test_a_near_deadline_does_not_repeat_the_search_of_its_batch() -> None:
    index = SlowIndex()
    near = draft(query(deadline=NOON + timedelta(milliseconds=1)))
    records = await RetrievalProcessor(search(WordEmbedder(), index, now=lambda: NOON), k_max=6).handle(
        [consumed_record(DRAFTS.name, near), consumed_record(DRAFTS.name, draft(query()))]
    )
    assert [context(r).retrieval for r in records] == [RetrievalStatus.SEARCHED] * 2
    assert index.batches == [2]


def test_a_context_without_retrieval_status_counts_as_searched() -> None:
    sample = json.loads(context_of(draft(query()), (), 6, RetrievalStatus.INDEX_AWAY, 1).to_bytes())
    del sample["retrieval"]
    assert Context.from_bytes(json.dumps(sample).encode()).retrieval is RetrievalStatus.SEARCHED


def test_the_query_text_is_the_question_and_the_base_answer() -> None:
    assert query_text(draft(query("q"), answer="a")) == "q\na"


class FixedProgress(IndexProgress):
    """Gives `status` to every query that waits, and keeps the positions."""

    def __init__(self, status: AfterStatus) -> None:
        self.status = status
        self.waited: list[Source] = []

    async def wait_for(self, query: Query, after: Source) -> AfterStatus:
        self.waited.append(after)
        return self.status


async def test_a_draft_that_waited_says_how_it_went_and_others_do_not_wait() -> None:
    index, progress, after = await indexed(interaction("sea")), FixedProgress(AfterStatus.TIMED_OUT), Source(topic=INTERACTIONS.name, partition=1, offset=3)
    retrieval = RetrievalProcessor(search(WordEmbedder(), index), k_max=2, progress=progress)
    waits = query().model_copy(update={"after": after})
    records = [
        consumed_record(DRAFTS.name, draft(waits), offset=0),
        consumed_record(DRAFTS.name, draft(query()), offset=1),
        consumed_record(DRAFTS.name, draft(waits, answer="", status=DraftStatus.BASE_FAILED), offset=2),
        replace(consumed_record(DRAFTS.name, draft(waits), offset=3), value=b"not json"),
    ]
    pending = [retrieval.wait_of(record) for record in records]
    assert [wait is not None for wait in pending] == [True, False, False, False]
    for wait in pending:
        if wait is not None:
            await wait
    assert progress.waited == [after]
    contexts = [context(record) for record in (await retrieval.handle(records))[:3]]
    assert [made.after for made in contexts] == [AfterStatus.TIMED_OUT, None, None]
    assert len(contexts[0].items) == 1
    assert not retrieval._waited


async def test_only_the_processor_that_answers_a_lookup_waits() -> None:
    progress, asked = FixedProgress(AfterStatus.INDEXED), query().model_copy(update={"after": Source(topic=INTERACTIONS.name, partition=1, offset=3)})
    record = consumed_record(LOOKUPS.name, lookup(asked))
    waiting = []
    for kind in LookupKind:
        processor = LookupProcessor(search(WordEmbedder(), MemoryIndex()), kind=kind, progress=progress)
        if (wait := processor.wait_of(record)) is not None:
            await wait
            (answer,) = await processor.handle([record])
            assert read_message(Retrieval, answer.headers, answer.value)[0].after is AfterStatus.INDEXED
            waiting.append(kind)
    assert waiting == [LookupKind.ITEMS]
