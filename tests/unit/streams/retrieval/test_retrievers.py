"""Retrievers by setting, for drafts and for lookups."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import timedelta

import pytest

from infra.settings.stream import Retriever
from schemas.contexts import Context, HistoryItem, RetrievalStatus
from schemas.envelope import read_message
from schemas.interactions import Interaction
from schemas.lookups import ItemOrder, Lookup, Retrieval
from schemas.positions import Source
from schemas.queries import Query
from schemas.strategies import Strategy
from schemas.tasks import Task
from schemas.topics import DRAFTS, INTERACTIONS, LOOKUPS
from streams.history.processor import HistoryProcessor
from streams.retrieval import retrievers
from streams.retrieval.processor import LookupProcessor, RetrievalProcessor
from streams.retrieval.retrievers import drawn, most_similar_by_bm25
from streams.retrieval.search import HistorySearch
from tests.support.streams_fakes import NOON, MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, draft, interaction, lookup, query, search


async def indexed(*interactions: Interaction) -> MemoryIndex:
    index = MemoryIndex()
    await HistoryProcessor(WordEmbedder(), index, batch=64).handle([consumed_record(INTERACTIONS.name, each, offset=n) for n, each in enumerate(interactions)])
    return index


async def retrieved(shared: HistorySearch, asked: Lookup) -> list[str]:
    (record,) = await LookupProcessor(shared).handle([consumed_record(LOOKUPS.name, asked)])
    made = read_message(Retrieval, record.headers, record.value)[0]
    assert made.status is RetrievalStatus.SEARCHED
    return [item.content for item in made.items]


async def of_draft(shared: HistorySearch, question: Query, answer: str, k: int) -> list[HistoryItem]:
    (record,) = await RetrievalProcessor(shared, k_max=k).handle([consumed_record(DRAFTS.name, draft(question, answer))])
    return list(read_message(Context, record.headers, record.value)[0].items)


def item(number: int, content: str, response: str = "drama") -> HistoryItem:
    at, source = NOON + timedelta(minutes=number), Source(topic="interactions", partition=0, offset=number)
    return HistoryItem(interaction_id=uuid.UUID(int=number), content=content, response=response, occurred_at=at, score=0, source=source)


def history(*contents: str) -> list[Interaction]:
    """Oldest first, an hour apart."""
    return [interaction(f"{n}", content=content, at=NOON + timedelta(hours=n)) for n, content in enumerate(contents)]


async def test_bm25_ranks_by_shared_words_without_an_embedding() -> None:
    embedder, index = WordEmbedder(), await indexed(*history("a storm at night", "a Storm at sea", "the old harbour"))
    assert await retrieved(search(embedder, index, retriever="bm25"), lookup(query("harbour storm"), k=2)) == ["the old harbour", "a storm at night"]
    assert embedder.calls == []


async def test_bm25_reads_the_base_answer_of_a_draft_and_only_the_question_of_a_lookup() -> None:
    shared = search(WordEmbedder(), await indexed(*history("one harbour", "two storm", "three")), by_strategy={"rpo": "bm25", "rag": "bm25"})
    assert [item.content for item in await of_draft(shared, query("storm"), "harbour harbour", k=2)] == ["one harbour", "two storm"]
    assert await retrieved(shared, lookup(query("storm"), k=2)) == ["two storm", "three"]


async def test_recent_items_are_the_newest_before_the_question() -> None:
    index = await indexed(*history(*map(str, range(30))))
    shared, asked = search(WordEmbedder(), index, retriever="recent"), query().model_copy(update={"asked_at": NOON + timedelta(hours=5)})
    assert await retrieved(shared, lookup(asked, k=3)) == ["4", "3", "2"]


async def test_a_random_draw_is_the_same_for_a_repeat_and_another_for_another_query() -> None:
    shared = search(WordEmbedder(), await indexed(*history(*map(str, range(20)))), retriever="random")
    asked = [lookup(query(), k=4) for _ in range(3)]
    draws = [await retrieved(shared, each) for each in asked]
    assert [await retrieved(shared, each) for each in asked] == draws
    assert len({tuple(draw) for draw in draws}) == 3
    assert all(len(set(draw)) == 4 for draw in draws), "without replacement"


def test_a_draw_is_even_over_items_and_positions() -> None:
    items = [item(n, str(n)) for n in range(5)]
    firsts = Counter(drawn(items, uuid.UUID(int=seed), 2)[0].content for seed in range(1_000))
    assert all(150 < firsts[str(n)] < 250 for n in range(5))


async def test_each_strategy_has_its_own_retriever() -> None:
    index = await indexed(*history("sea sea", "sea harbour", "war"))
    shared = search(WordEmbedder(), index, retriever="recent", by_strategy={"hydra": "bm25", "rpo": "embedding"})
    found = {each: await retrieved(shared, lookup(query("harbour"), k=1, strategy=each)) for each in (Strategy.HYDRA, Strategy.RAG)}
    assert found == {Strategy.HYDRA: ["sea harbour"], Strategy.RAG: ["war"]}
    assert [item.content for item in await of_draft(shared, query("sea"), "sea", k=1)] == ["sea sea"]


async def test_hydra_gets_the_items_that_its_reranker_is_trained_on() -> None:
    embedder, index = WordEmbedder(), await indexed(*history("a storm at night", "the old harbour"))
    for shared in (search(embedder, index), search(embedder, index, by_strategy={"rag": "recent"})):
        assert await retrieved(shared, lookup(query("harbour"), k=1, strategy=Strategy.HYDRA)) == ["the old harbour"]
    assert embedder.calls == []


@pytest.mark.parametrize("retriever", list(Retriever))
async def test_first_items_do_not_depend_on_the_retriever(retriever: Retriever) -> None:
    shared = search(WordEmbedder(), await indexed(*history("first", "sea", "war")), retriever=retriever)
    assert await retrieved(shared, lookup(query("sea"), items=ItemOrder.FIRST, k=2)) == ["first", "sea"]


@pytest.mark.parametrize("retriever", list(Retriever))
async def test_no_retriever_sees_other_users_domains_or_later_items(retriever: Retriever) -> None:
    others = [interaction("b", user="bob"), interaction("t", domain="tweet"), interaction("later", at=NOON + timedelta(days=1))]
    shared = search(WordEmbedder(), await indexed(interaction("mine"), *others), retriever=retriever)
    assert await retrieved(shared, lookup(query(), k=9)) == ["about mine"]


@pytest.mark.parametrize("retriever", [Retriever.BM25, Retriever.RANDOM])
async def test_only_the_newest_items_are_scanned(retriever: Retriever) -> None:
    shared = search(WordEmbedder(), await indexed(*history("sea", "sea two", "three", "four")), retriever=retriever, scan_items=2)
    assert set(await retrieved(shared, lookup(query("sea"), k=4))) == {"three", "four"}


@pytest.mark.parametrize("retriever", list(Retriever))
async def test_a_user_without_history_gets_no_items(retriever: Retriever) -> None:
    assert await retrieved(search(WordEmbedder(), MemoryIndex(), retriever=retriever), lookup(query())) == []


@pytest.mark.parametrize("retriever", list(Retriever))
async def test_an_item_without_content_can_be_retrieved(retriever: Retriever) -> None:
    assert await retrieved(search(WordEmbedder(), await indexed(interaction("blank", content="")), retriever=retriever), lookup(query(""), k=4)) == [""]


@pytest.mark.parametrize("retriever", list(Retriever))
async def test_items_without_a_response_take_no_place(retriever: Retriever) -> None:
    blanks = [each.model_copy(update={"response": "\t"}) for each in history("sea", "sea", "sea", "sea", "sea")[1:]]  # the newest and the nearest
    shared = search(WordEmbedder(), await indexed(*history("war"), *blanks), retriever=retriever, scan_items=2)
    assert await retrieved(shared, lookup(query("sea"), k=2)) == ["war"]
    assert [item.content for item in await of_draft(shared, query("sea"), "sea", k=2)] == ["war"]


async def test_no_retriever_waits_for_an_index_that_is_away() -> None:
    for retriever in Retriever:
        items = await of_draft(search(WordEmbedder(), UnavailableIndex(times=99), retriever=retriever), query(), "drama", k=4)
        assert items == []


def test_bm25_items_carry_their_score_and_of_equal_ones_the_newest_is_first() -> None:
    newest_first = [item(n, content) for n, content in reversed(list(enumerate(["same", "other word", "same", "last word"])))]
    ranked = most_similar_by_bm25("none of them", newest_first, Task.LABEL, 4)
    assert [each.interaction_id.int for each in ranked] == [3, 2, 1, 0]
    best, second, *_ = most_similar_by_bm25("other", newest_first, Task.LABEL, 4)
    assert (best.content, second.score) == ("other word", 0) and best.score > 0


def test_bm25_leaves_out_the_oldest_of_very_long_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrievers, "SCANNED_CHARS", 30)
    newest_first = [item(3, "sea " * 2), item(2, "war " * 2), item(1, "sea " * 9)]
    assert [each.interaction_id.int for each in most_similar_by_bm25("sea", newest_first, Task.LABEL, 9)] == [3, 2]
