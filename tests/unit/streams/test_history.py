from __future__ import annotations

from schemas.topics import INTERACTIONS
from streams.history import History, text_of
from streams.index.history import Scope
from tests.unit.streams.fakes import ListIndex, WordEmbedder, arrive, interaction


async def test_interactions_reach_the_index_with_their_place_in_the_log() -> None:
    index = ListIndex()
    history = History(WordEmbedder(), index, batch=8)
    assert await history.handle([arrive(INTERACTIONS.name, interaction("sea"), partition=3, offset=41)]) == []
    (point,) = index.points.values()
    assert (point.source.topic, point.source.partition, point.source.offset) == ("interactions", 3, 41)
    assert point.interaction.response == "comedy"


async def test_a_batch_is_one_background_call_and_a_repeat_adds_nothing() -> None:
    index, embedder = ListIndex(), WordEmbedder()
    history = History(embedder, index, batch=8)
    batch = [arrive(INTERACTIONS.name, interaction(name), offset=n) for n, name in enumerate(("sea", "war"))]
    await history.handle(batch)
    await history.handle(batch)
    assert await index.count(Scope("acme", "alice")) == 2
    assert [urgent for _, urgent in embedder.asked] == [False, False]


async def test_a_bad_record_is_set_aside_and_the_rest_of_its_batch_is_indexed() -> None:
    index = ListIndex()
    good = arrive(INTERACTIONS.name, interaction("sea"))
    bad = arrive(INTERACTIONS.name, interaction("war"), offset=1).__class__("interactions", 1, 1, 0, b"k", b"{", good.headers)
    (letter,) = await History(WordEmbedder(), index, batch=8).handle([bad, good])
    assert (letter.topic, letter.key, letter.value) == ("interactions-dlt", b"k", b"{")
    assert await index.count(Scope("acme", "alice")) == 1


def test_what_is_embedded_is_content_and_response_where_they_say_something() -> None:
    assert text_of(interaction("sea")) == "about sea\ncomedy"
    assert text_of(interaction("sea", content="  ")) == "comedy"
