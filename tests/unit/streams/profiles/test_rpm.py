"""Features, factors and reasoning on the stream: which tasks are published, and what lookups of RPM find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.settings.profiles import ProfilesSettings
from infra.telemetry.metrics import FEATURES_WITHOUT_FACTOR
from schemas.contexts import HistoryItem, RetrievalStatus
from schemas.features import FactoredFeature, Feature, ItemFeatures, Propensities, UserFactors
from schemas.interactions import Interaction
from schemas.lookups import ItemOrder, Lookup, LookupPurpose, Reads, Retrieval
from schemas.messages import Message
from schemas.profiles import Author, ExtractedFeatures, FeaturesWork, ProfileEntry, ProfileTask, Reasoning, ReasoningWork
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.strategies import Strategy, StrategyChoice
from schemas.tasks import Task
from schemas.topics import INTERACTIONS, LOOKUPS, PROFILES
from streams.history.processor import HistoryProcessor
from streams.index.tenant_filter import Scope
from streams.profiles import index, lookups
from streams.profiles.feature_tasks import REPEAT_S, FeatureTasks
from streams.profiles.histories import FactorHistories
from streams.profiles.index import ProfileIndex
from streams.profiles.lookups import FactorLookups
from streams.profiles.processor import ProfileProcessor
from streams.retrieval.processor import CONTEXT_BYTES, LookupProcessor, within_size
from tests.support.feature_items import at, item
from tests.support.manual_clock import ManualClock
from tests.support.profile_tasks import history_items
from tests.support.streams_fakes import NOON, WORDS, MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, interaction, lookup, query, search

BACKFILL = 4
ALICE = Scope("acme", "alice")


class Stream:
    """The processors that RPM concerns, over indexes in memory. `profiles`: the index of a process that ran before."""

    def __init__(self, profiles: MemoryIndex | None = None, *, users: int = 9) -> None:
        self.clock = ManualClock()
        self.history, self.points, embedder = MemoryIndex(), profiles or MemoryIndex(), WordEmbedder()
        chosen = ProfilesSettings(features_backfill=BACKFILL, factor_cosine=0.8, factor_users=users)
        self.index = ProfileIndex(self.points, embedder.dimension)
        self.histories, tasks = FactorHistories(self.index, chosen), FeatureTasks(self.history, self.index, chosen, self.clock.monotonic)
        self._history = HistoryProcessor(embedder, self.history, 64, features=tasks)
        self._lookups = LookupProcessor(search(embedder, self.history), factors=FactorLookups(embedder, self.index, self.histories, tasks))
        self.profiles = ProfileProcessor(self.index, embedder, self.histories)
        self._offset = 0

    async def act(self, *interactions: Interaction) -> list[ProfileTask]:
        return tasks(await self._history.handle([self.record(INTERACTIONS.name, each) for each in interactions]))

    async def ask(self, lookup: Lookup) -> tuple[Retrieval, list[ProfileTask]]:
        retrieval, *others = await self._lookups.handle([consumed_record(LOOKUPS.name, lookup)])
        return Retrieval.from_bytes(retrieval.value or b""), tasks(others)

    async def write(self, *works: ProfileTask, names: Callable[[str], Sequence[str]] | None = None) -> list[ProfileTask]:
        """As the profiles worker does: each of WORDS in an item is a feature of it. Returns the tasks that follow."""
        entries = [entry_of(work, names or words_in) for work in works]
        return tasks(await self.profiles.handle([self.record(PROFILES.name, entry) for entry in entries]))

    async def learn(self, *interactions: Interaction, user: str = "alice") -> None:
        """The items with features and reasoning, as after a first lookup."""
        await self.act(*interactions)
        due = (await self.ask(first_step(user=user)))[1]
        await self.write(*await self.write(*due))

    def record(self, topic: str, message: Message) -> ConsumedRecord:
        self._offset += 1
        return consumed_record(topic, message, offset=self._offset)


def words_in(text: str) -> list[str]:
    return [word for word in WORDS if word in text]


def entry_of(task: ProfileTask, names: Callable[[str], Sequence[str]]) -> ProfileEntry:
    work = task.work
    content: ExtractedFeatures | Reasoning
    if isinstance(work, FeaturesWork):
        fields = work.item.model_dump(include={"interaction_id", "content", "response", "occurred_at"})
        found = ItemFeatures(**fields, features=tuple(Feature(name=name) for name in names(work.item.content)))
        content = ExtractedFeatures(task=work.task, item=found, source=work.item.source)
    else:
        assert isinstance(work, ReasoningWork)
        content = Reasoning(
            interaction_id=work.item.interaction_id,
            text=f"because of {work.item.features[0].name}",
            statistics_version=work.factors.version,
            until=work.item.occurred_at,
        )
    return ProfileEntry(entry_id=task.task_id, tenant=task.tenant, user=task.user, domain=task.domain, content=content, author=Author(name="template"))


def tasks(records: list[ProducedRecord]) -> list[ProfileTask]:
    return [ProfileTask.from_bytes(record.value or b"") for record in records]


def items(*names: str, at: datetime = NOON, user: str = "alice") -> list[Interaction]:
    return [interaction(name, at=at + timedelta(minutes=n), user=user) for n, name in enumerate(names)]


def first_step(*, user: str = "alice", asked_at: datetime = NOON + timedelta(days=1), purpose: LookupPurpose = LookupPurpose.ANSWER) -> Lookup:
    asked = query(user=user).model_copy(update={"asked_at": asked_at})
    reads = Reads(items=ItemOrder.SIMILAR, k=3, factors=True)
    return Lookup(query=asked, choice=StrategyChoice(strategy=Strategy.RPM), reads=reads, purpose=purpose)


def second_step(
    *names: str,
    by: ItemOrder | None = None,
    k: int = 2,
    asked_at: datetime = NOON + timedelta(days=1),
    chosen: UUID | None = None,
    earlier: Sequence[HistoryItem] = (),
) -> Lookup:
    reads = Reads(items=by, k=k, factors=True, examples=True) if by else Reads(factors=True, examples_k=k)
    features = tuple(FactoredFeature(feature=Feature(name=name), factor_id=chosen) for name in names)
    return first_step(asked_at=asked_at).model_copy(update={"step": 2, "reads": reads, "features": features, "items": tuple(earlier)})


def contents(due: Sequence[ProfileTask]) -> list[str]:
    return [task.work.item.content for task in due if isinstance(task.work, FeaturesWork | ReasoningWork)]


async def test_the_first_lookup_publishes_tasks_of_the_newest_items_oldest_first() -> None:
    stream = Stream()
    blank = interaction("blank", at=NOON + timedelta(hours=1)).model_copy(update={"response": " "})
    await stream.act(*items("sea", "war", "love", "space"), blank, *items("sea", user="bob"))
    retrieval, due = await stream.ask(first_step())
    assert retrieval.factors is None and len(retrieval.items) == 3
    assert contents(due) == ["about sea", "about war", "about love", "about space"]  # one without a response takes no place
    assert {(task.user, task.work.task) for task in due} == {("alice", Task.LABEL)}


async def test_a_lookup_that_reads_no_factors_costs_nothing() -> None:
    stream = Stream()
    await stream.act(*items("sea"))
    retrieval, due = await stream.ask(lookup(query()))
    assert (retrieval.factors, due) == (None, [])


async def test_tasks_are_not_published_again_while_they_may_be_at_work() -> None:
    stream = Stream()
    await stream.act(*items("sea", "war"))
    first = (await stream.ask(first_step()))[1]
    assert (await stream.ask(first_step()))[1] == []
    await stream.act(*items("love", at=NOON + timedelta(hours=1)))
    assert contents((await stream.ask(first_step()))[1]) == ["about love"]
    await stream.clock.advance(REPEAT_S + 1)
    assert [task.task_id for task in (await stream.ask(first_step()))[1]][:2] == [task.task_id for task in first]


async def test_the_task_of_reasoning_cites_the_statistics_through_its_item() -> None:
    stream = Stream()
    await stream.act(*items("sea", "sea war"))
    due = await stream.write(*(await stream.ask(first_step()))[1])
    works = [task.work for task in due if isinstance(task.work, ReasoningWork)]
    assert contents(due) == ["about sea", "about sea war"]
    assert [[(f.label, f.items) for f in work.factors.factors] for work in works] == [[("sea", 1)], [("sea", 2), ("war", 1)]]
    assert [work.factors.until for work in works] == [NOON, NOON + timedelta(minutes=1)]


async def test_an_item_without_features_is_counted_and_needs_no_reasoning() -> None:
    stream = Stream()
    await stream.act(*items("nothing", "sea"))
    assert contents(await stream.write(*(await stream.ask(first_step()))[1])) == ["about sea"]
    factors = (await stream.ask(first_step()))[0].factors
    assert factors and factors.items == 2


async def test_the_next_lookup_finds_the_factors_with_their_statistics() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "sea war", "love"))
    factors = (await stream.ask(first_step()))[0].factors
    assert factors and [factor.label for factor in factors.factors] == ["sea", "love", "war"]
    statistic = factors.factors[0].statistic
    assert isinstance(statistic, Propensities) and [(a.answer, a.items, a.propensity) for a in statistic.answers] == [("comedy", 2, 1.0)]


async def test_new_items_of_a_user_with_features_give_tasks_and_those_of_others_do_not() -> None:
    stream = Stream()
    await stream.learn(*items("sea"))
    later = NOON + timedelta(hours=1)
    assert contents(await stream.act(*items("war", at=later), *items("love", at=later, user="bob"))) == ["about war"]


async def test_a_query_sees_no_factor_statistic_or_example_of_its_own_future() -> None:
    stream = Stream()
    await stream.learn(*items("sea"), *items("sea war", at=NOON + timedelta(hours=5)))
    found, _ = await stream.ask(second_step("war", asked_at=NOON + timedelta(hours=5)))
    assert found.factors and [(factor.label, factor.items) for factor in found.factors.factors] == [("sea", 1)]
    assert [example.content for example in found.examples] == ["about sea"]
    assert found.features[0].factor_id is None


async def test_features_find_factors_and_the_examples_nearest_to_them_with_their_reasoning() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war", "love"))
    before = sum(FEATURES_WITHOUT_FACTOR.values().values())
    found, _ = await stream.ask(second_step("war", "space"))
    assert found.factors is not None
    factor = found.factors.factor(found.features[0].factor_id)
    assert factor and factor.label == "war" and found.features[1].factor_id is None
    assert sum(FEATURES_WITHOUT_FACTOR.values().values()) == before + 1
    assert (found.examples[0].content, found.examples[0].reasoning) == ("about war", "because of war")
    assert [item.interaction_id for item in found.items] == [example.interaction_id for example in found.examples]
    assert found.items[0].source.topic == INTERACTIONS.name and found.items[0].score > found.items[1].score
    assert len(found.examples) == 2 and found.examples[0].features[0].factor_id == factor.factor_id


async def test_lookups_of_an_earlier_release_find_examples_by_features_too() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war", "love"))
    asked = second_step("war")
    earlier = asked.model_copy(update={"reads": Reads(k=2, factors=True, examples=True)})
    assert (await stream.ask(earlier))[0].examples == (await stream.ask(asked))[0].examples


async def test_a_factor_that_was_chosen_for_a_feature_stays_and_an_unknown_one_does_not() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war"))
    factors = (await stream.ask(first_step()))[0].factors
    assert factors is not None
    ids = {factor.label: factor.factor_id for factor in factors.factors}
    for chosen, expected in ((ids["sea"], ids["sea"]), (UUID(int=7), ids["war"])):
        assert (await stream.ask(second_step("war", chosen=chosen)))[0].features[0].factor_id == expected


async def test_a_feature_that_fits_no_factor_by_the_models_choice_keeps_none_and_counts() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war"))
    asked = second_step("war", "sea")
    refused, free = asked.features or ()
    asked = asked.model_copy(update={"features": (refused.model_copy(update={"chosen": True}), free)})
    before = sum(FEATURES_WITHOUT_FACTOR.values().values())
    found, _ = await stream.ask(asked)
    assert found.factors is not None
    nearest = found.factors.factor(found.features[1].factor_id)
    assert found.features[0].factor_id is None and nearest and nearest.label == "sea"
    assert sum(FEATURES_WITHOUT_FACTOR.values().values()) == before + 1


async def test_by_the_querys_text_the_examples_are_the_nearest_items_of_the_history() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war", "love"))
    found, _ = await stream.ask(second_step("war", by=ItemOrder.SIMILAR, k=1))  # its text is about the sea
    assert [example.content for example in found.examples] == ["about sea"]


async def test_one_lookup_finds_the_items_for_rag_and_after_them_those_of_the_examples() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war", "love"))
    asked = second_step("war")
    asked = asked.model_copy(update={"step": 1, "reads": asked.reads.model_copy(update={"items": ItemOrder.SIMILAR, "k": 1})})
    found, _ = await stream.ask(asked)
    assert found.items[0].content == "about sea", "the query's text is about the sea"
    assert found.examples[0].content == "about war" and len(found.examples) == 2
    ids = [item.interaction_id for item in found.items]
    assert len(ids) == len(set(ids)) and {example.interaction_id for example in found.examples} <= set(ids)
    nothing, _ = await stream.ask(asked.model_copy(update={"features": ()}))
    assert ([item.content for item in nothing.items], nothing.examples) == (["about sea"], ())


@pytest.mark.parametrize("by", [None, ItemOrder.SIMILAR])
async def test_the_items_of_the_first_lookup_come_first_and_the_examples_after_them(by: ItemOrder | None) -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war", "love"))
    earlier = (await stream.ask(first_step()))[0].items[:1]
    assert [item.content for item in earlier] == ["about sea"]
    found, _ = await stream.ask(second_step("sea", "war", by=by, earlier=earlier))
    assert found.items[0] == earlier[0] and len(found.items) == 2
    assert {example.interaction_id for example in found.examples} == {item.interaction_id for item in found.items}
    assert found.lookup.items == (), "they are in the retrieval once"


async def test_the_items_of_the_first_lookup_are_kept_if_the_second_one_finds_nothing() -> None:
    history, profiles = Stream(), UnavailableIndex(0)
    await history.act(*items("sea"))
    earlier = (await history.ask(first_step()))[0].items
    for failures, profile in ((0, RetrievalStatus.SEARCHED), (1, RetrievalStatus.INDEX_AWAY)):
        profiles.failures_left = failures
        found, _ = await Stream(profiles).ask(second_step("sea", earlier=earlier))
        assert (found.items, found.status) == (earlier, RetrievalStatus.SEARCHED)
        assert (found.factors, found.examples, found.profile) == (None, (), profile)


async def test_a_retrieval_that_is_too_large_loses_the_examples_items_first() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war", "love"))
    earlier = (await stream.ask(first_step()))[0].items[:1]
    found = (await stream.ask(second_step("war", k=3, earlier=earlier)))[0]
    assert len(found.items) == len(found.examples) == 3
    large = found.model_copy(update={"items": (found.items[0], *(item.model_copy(update={"content": "x" * CONTEXT_BYTES}) for item in found.items[1:]))})
    small = within_size(large)
    assert small.items == earlier
    assert [example.interaction_id for example in small.examples] == [earlier[0].interaction_id]


async def test_an_item_whose_reasoning_is_not_yet_written_is_no_example() -> None:
    stream = Stream()
    await stream.act(*items("sea"))
    await stream.write(*(await stream.ask(first_step()))[1])
    found, _ = await stream.ask(second_step("sea"))
    assert found.factors and (found.examples, found.items) == ((), ())


async def test_of_two_features_of_one_item_the_first_stay() -> None:
    stream = Stream()
    await stream.act(*items("sea"))
    due = (await stream.ask(first_step()))[1]
    await stream.write(*due)
    assert await stream.write(*due, names=lambda _: ["war"]) == []
    for process in (stream, restarted(stream)):
        factors = (await process.ask(first_step()))[0].factors
        assert factors and [factor.label for factor in factors.factors] == ["sea"]


@pytest.mark.parametrize("by", [None, ItemOrder.SIMILAR])
async def test_items_with_reasoning_are_the_examples_though_many_nearer_ones_have_none(by: ItemOrder | None) -> None:
    stream = Stream()
    await stream.learn(*items("love", "sea war", "space"))
    newer = [interaction(f"new {n}", content="the sea", at=NOON + timedelta(hours=1, minutes=n)) for n in range(60)]
    await stream.write(*await stream.act(*newer))  # they have features, and no reasoning yet
    found, _ = await stream.ask(second_step("sea", by=by))
    assert found.examples[0].content == "about sea war" and len(found.examples) == 2
    assert [item.interaction_id for item in found.items] == [example.interaction_id for example in found.examples]


async def test_the_search_for_examples_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "EXAMPLES_FROM", 20)
    stream = Stream()
    await stream.learn(*items("love"))
    await stream.write(*await stream.act(*(interaction(f"new {n}", content="the sea", at=NOON + timedelta(hours=1, minutes=n)) for n in range(25))))
    found, _ = await stream.ask(second_step("sea"))
    assert found.factors and found.examples == ()


async def test_a_repeated_batch_publishes_the_reasoning_again_and_counts_nothing_twice() -> None:
    stream = Stream()
    await stream.act(*items("sea", "sea war"))
    records = [stream.record(PROFILES.name, entry_of(task, words_in)) for task in (await stream.ask(first_step()))[1]]
    first, second = tasks(await stream.profiles.handle(records)), tasks(await stream.profiles.handle(records))
    assert first == second
    factors = (await stream.ask(first_step()))[0].factors
    assert factors and factors.items == 2


async def test_a_person_who_looks_gets_all_factors_and_causes_no_task() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war"))
    await stream.act(*items("love", at=NOON + timedelta(hours=1)))
    await stream.clock.advance(REPEAT_S + 1)
    found, due = await stream.ask(first_step(purpose=LookupPurpose.INSPECT))
    assert found.factors and len(found.factors.factors) == 2 and due == []


async def test_a_query_does_not_wait_for_profiles_that_are_away_and_names_the_reason() -> None:
    stream = Stream(UnavailableIndex(1))
    await stream.act(*items("sea"))
    found, _ = await stream.ask(first_step())
    assert (found.factors, len(found.items), found.status, found.profile) == (None, 1, RetrievalStatus.SEARCHED, RetrievalStatus.INDEX_AWAY)
    found, due = await stream.ask(first_step())
    assert (found.factors, found.profile, len(due)) == (None, RetrievalStatus.SEARCHED, 1)


def restarted(stream: Stream, *, users: int = 9) -> Stream:
    """A process that starts on the same profile index, without anything in memory."""
    return Stream(stream.points, users=users)


MINUTES = st.integers(min_value=0, max_value=6)
ARRIVALS = st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=4), MINUTES, st.sampled_from(["comedy", "drama"])), min_size=1, max_size=12)


@pytest.mark.parametrize("page", [1, 3, 2_000])
@settings(max_examples=60, deadline=None)
@given(ARRIVALS, st.integers(min_value=0, max_value=12), st.sampled_from(list(Task)))
async def test_a_process_that_starts_again_has_the_same_factors_bit_for_bit(
    page: int, arrivals: list[tuple[list[str], int, str]], split: int, task: Task
) -> None:
    """Items arrive early, late and at equal times; the process starts again after `split` of them, and at the end. A cache of one user changes nothing, and
    neither does the number of items that a restart reads at once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "PAGE", page)
        await _check_restarts(arrivals, split, task)


async def _check_restarts(arrivals: list[tuple[list[str], int, str]], split: int, task: Task) -> None:
    stream = Stream()
    for number, (words, minute, response) in enumerate(arrivals):
        if number == split:
            stream = restarted(stream, users=1)
        found = item(number, words, response, hour=minute)
        source = history_items([("x", "y")])[0].source
        content = ExtractedFeatures(task=task, item=found, source=source)
        entry = ProfileEntry(entry_id=found.interaction_id, tenant="acme", user="alice", domain="movie_tag", content=content, author=Author(name="template"))
        await stream.profiles.handle([consumed_record(PROFILES.name, entry, offset=number)])
    for hour in (0.5, 3.0, 99.0):
        assert await _factors(stream, at(hour), task) == await _factors(restarted(stream), at(hour), task)


async def _factors(stream: Stream, moment: datetime, task: Task) -> UserFactors:
    async with stream.histories.history(ALICE, "movie_tag") as history:
        return history.factors_before(moment, task)


async def test_a_retrieval_that_is_too_large_loses_factors_after_its_items() -> None:
    stream = Stream()
    await stream.learn(*items("sea", "war"))
    found = (await stream.ask(second_step("sea")))[0]
    assert found.factors is not None
    many = [found.factors.factors[0].model_copy(update={"factor_id": UUID(int=n), "label": "x" * 200}) for n in range(5_000)]
    small = within_size(found.model_copy(update={"factors": found.factors.model_copy(update={"factors": tuple(many)})}))
    assert len(small.to_bytes()) <= CONTEXT_BYTES
    assert (small.items, small.examples) == ((), ())
    assert small.factors and 0 < len(small.factors.factors) < 5_000 and small.factors.version == found.factors.version


async def test_rounded_vectors_survive_the_index() -> None:
    stream = Stream()
    await stream.learn(*items("sea war"))
    ((_, vectors),) = await stream.index.items(ALICE, "movie_tag")
    assert vectors.dtype == np.int16 and vectors.shape == (2, WordEmbedder.dimension)


@pytest.mark.parametrize("names", [(), ("sea",)])
async def test_a_lookup_with_features_of_a_user_without_factors_finds_nothing(names: tuple[str, ...]) -> None:
    found, due = await Stream().ask(second_step(*names))
    assert (found.factors, found.features, found.examples, due) == (None, (), (), [])
