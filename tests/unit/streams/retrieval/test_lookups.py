"""Lookups: one retrieval each, under the rules of contexts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from infra.process.circuit_breaker import CircuitBreaker
from schemas.contexts import Context, RetrievalStatus
from schemas.envelope import read_message
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.lookups import ItemOrder, Retrieval
from schemas.records import ProducedRecord
from schemas.strategies import Strategy
from schemas.topics import DRAFTS, INTERACTIONS, LOOKUPS
from streams.history.processor import HistoryProcessor
from streams.retrieval.processor import CONTEXT_BYTES, LookupProcessor, RetrievalProcessor
from streams.retrieval.search import ATTEMPTS
from tests.support.streams_fakes import NOON, TRACE, MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, draft, interaction, lookup, query, search

ASKED_AT = NOON + timedelta(days=1)


def retrieval(record: ProducedRecord) -> Retrieval:
    return read_message(Retrieval, record.headers, record.value)[0]


def found(record: ProducedRecord) -> list[str]:
    return [item.content for item in retrieval(record).items]


async def indexed(*interactions: Interaction) -> MemoryIndex:
    index = MemoryIndex()
    await HistoryProcessor(WordEmbedder(), index, batch=64).handle([consumed_record(INTERACTIONS.name, each, offset=n) for n, each in enumerate(interactions)])
    return index


async def test_a_lookup_becomes_a_retrieval_with_the_items_nearest_to_the_question_alone() -> None:
    embedder = WordEmbedder()
    shared = search(embedder, await indexed(interaction("war"), interaction("sea"), interaction("love")))
    asked = lookup(query("a film about the sea"), k=2)
    (record,) = await LookupProcessor(shared).handle([consumed_record(LOOKUPS.name, asked)])
    made, envelope = read_message(Retrieval, record.headers, record.value)
    assert (record.topic, record.key, envelope.id, envelope.traceparent) == ("retrievals", b"acme/alice", str(derive("retrieval", asked.id)), TRACE)
    assert (made.lookup, made.status) == (asked, RetrievalStatus.SEARCHED)
    assert made.items[0].content == "about sea" and len(made.items) == 2 and made.retrieve_ms > 0
    assert embedder.calls == [(["a film about the sea"], True)]


async def test_the_query_prefix_is_embedded_before_each_question_and_never_ranked_by_bm25() -> None:
    embedder, index = WordEmbedder(), await indexed(interaction("sea"), interaction("war", at=NOON - timedelta(days=1)))
    shared = search(embedder, index, query_prefix="Find war: ", by_strategy={"hydra": "bm25"})
    asked = [lookup(query("sea"), k=1), lookup(query("sea"), k=1, strategy=Strategy.HYDRA)]
    records = await LookupProcessor(shared).handle([consumed_record(LOOKUPS.name, each) for each in asked])
    await RetrievalProcessor(shared, k_max=1).handle([consumed_record(DRAFTS.name, draft(query("love"), "drama"))])
    assert embedder.calls == [(["Find war: sea"], True), (["Find war: love\ndrama"], True)]
    assert found(records[1]) == ["about sea"]


async def test_each_step_of_a_query_has_its_own_retrieval_and_a_repeat_has_the_same() -> None:
    question = query()
    records = [consumed_record(LOOKUPS.name, lookup(question, step=step)) for step in (1, 2, 1)]
    first, second, repeat = [dict(r.headers)["ce_id"] for r in await LookupProcessor(search(WordEmbedder(), MemoryIndex())).handle(records)]
    assert first == repeat != second


@pytest.mark.parametrize("order", list(ItemOrder))
async def test_a_lookup_sees_only_the_users_own_past_of_the_domain(order: ItemOrder) -> None:
    index = await indexed(
        interaction("mine", content="sea"),
        interaction("bobs", content="sea", user="bob", at=NOON - timedelta(days=9)),
        interaction("later", content="sea", at=ASKED_AT),
        interaction("other", content="sea", domain="tweet", at=NOON - timedelta(days=9)),
    )
    (record,) = await LookupProcessor(search(WordEmbedder(), index)).handle([consumed_record(LOOKUPS.name, lookup(query(), items=order))])
    assert [item.interaction_id for item in retrieval(record).items] == [interaction("mine").interaction_id]


async def test_the_first_items_are_the_oldest_and_cost_no_embedding() -> None:
    index, embedder = await indexed(*(interaction(f"sea {day}", at=NOON - timedelta(days=day)) for day in (1, 3, 2))), WordEmbedder()
    asked = [lookup(query(text), items=ItemOrder.FIRST, k=2) for text in ("sea", "war")]
    records = await LookupProcessor(search(embedder, index)).handle([consumed_record(LOOKUPS.name, each) for each in asked])
    assert [found(record) for record in records] == [["about sea 3", "about sea 2"]] * 2
    assert embedder.calls == []


async def test_lookups_of_both_orders_share_one_call_and_keep_their_order() -> None:
    index, embedder = await indexed(interaction("sea", at=NOON - timedelta(days=2)), interaction("war"), interaction("love")), WordEmbedder()
    asked = [lookup(query("war"), k=1), lookup(query(), items=ItemOrder.FIRST, k=1), lookup(query("love"), k=1)]
    records = await LookupProcessor(search(embedder, index)).handle([consumed_record(LOOKUPS.name, each) for each in asked])
    assert [found(record) for record in records] == [["about war"], ["about sea"], ["about love"]]
    assert embedder.calls == [(["war", "love"], True)]


@pytest.mark.parametrize("order", list(ItemOrder))
async def test_an_item_without_content_is_found(order: ItemOrder) -> None:
    index = await indexed(interaction("one", content=""))
    (record,) = await LookupProcessor(search(WordEmbedder(), index)).handle([consumed_record(LOOKUPS.name, lookup(query(), items=order))])
    assert [(item.content, item.response) for item in retrieval(record).items] == [("", "comedy")]


@pytest.mark.parametrize("order", list(ItemOrder))
async def test_items_without_a_response_take_no_place(order: ItemOrder) -> None:
    blanks = [interaction(f"sea {n}", at=NOON - timedelta(days=n)).model_copy(update={"response": " \u200b"}) for n in range(1, 4)]
    index = await indexed(*blanks, interaction("war"), interaction("love", at=NOON + timedelta(hours=1)))
    (record,) = await LookupProcessor(search(WordEmbedder(), index)).handle([consumed_record(LOOKUPS.name, lookup(query(), items=order, k=2))])
    assert set(found(record)) == {"about war", "about love"}


@pytest.mark.parametrize("reads_nothing", [{"items": None, "k": 4}, {"k": 0}])
async def test_a_lookup_that_reads_nothing_costs_neither_embedding_nor_search(reads_nothing: dict[str, object]) -> None:
    index, embedder = UnavailableIndex(times=0), WordEmbedder()
    (record,) = await LookupProcessor(search(embedder, index)).handle([consumed_record(LOOKUPS.name, lookup(query(), **reads_nothing))])  # type: ignore[arg-type]
    assert (retrieval(record).items, retrieval(record).status) == ((), RetrievalStatus.NOT_NEEDED)
    assert (embedder.calls, index.calls) == ([], 0)


@pytest.mark.parametrize("order", list(ItemOrder))
async def test_a_lookup_past_its_deadline_goes_on_without_items(order: ItemOrder) -> None:
    index, embedder = UnavailableIndex(times=0), WordEmbedder()
    late = consumed_record(LOOKUPS.name, lookup(query(deadline=NOON), items=order))
    (record,) = await LookupProcessor(search(embedder, index, now=lambda: NOON)).handle([late])
    assert (retrieval(record).items, retrieval(record).status) == ((), RetrievalStatus.DEADLINE_PASSED)
    assert (embedder.calls, index.calls) == ([], 0)


@pytest.mark.parametrize("order", list(ItemOrder))
async def test_drafts_and_lookups_share_the_circuit_breaker(order: ItemOrder) -> None:
    index, embedder = UnavailableIndex(times=99), WordEmbedder()
    shared = search(embedder, index, breaker=CircuitBreaker(60, 60))
    (record,) = await LookupProcessor(shared).handle([consumed_record(LOOKUPS.name, lookup(query(), items=order))])
    assert (retrieval(record).items, retrieval(record).status) == ((), RetrievalStatus.INDEX_AWAY)
    embedder.calls.clear()
    (record,) = await RetrievalProcessor(shared, k_max=6).handle([consumed_record(DRAFTS.name, draft(query()))])
    assert read_message(Context, record.headers, record.value)[0].retrieval is RetrievalStatus.INDEX_AWAY
    assert (index.calls, embedder.calls) == (ATTEMPTS, [])


async def test_a_bad_lookup_is_dead_lettered_and_the_others_get_retrievals() -> None:
    good = consumed_record(LOOKUPS.name, lookup(query()))
    a_draft = replace(consumed_record(DRAFTS.name, draft(query())), topic=LOOKUPS.name)
    records = await LookupProcessor(search(WordEmbedder(), MemoryIndex())).handle([replace(good, value=b"[]"), good, a_draft])
    assert [record.topic for record in records] == ["retrievals", "lookups-dlt", "lookups-dlt"]


async def test_items_too_large_for_a_retrieval_are_left_out_last_first() -> None:
    huge = [interaction(f"sea {n}", content="é" * 32_000 + "sea", at=NOON + timedelta(minutes=n)) for n in range(9)]
    asked = consumed_record(LOOKUPS.name, lookup(query(), items=ItemOrder.FIRST, k=9))
    (record,) = await LookupProcessor(search(WordEmbedder(), await indexed(*huge))).handle([asked])
    assert record.value is not None and len(record.value) <= CONTEXT_BYTES
    items = retrieval(record).items
    assert 0 < len(items) < 9
    assert [item.interaction_id for item in items] == [each.interaction_id for each in huge[: len(items)]]
