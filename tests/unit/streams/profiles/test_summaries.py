"""Which summaries a query reads, and when a summary is written again."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from infra.settings.profiles import ProfilesSettings
from schemas.interactions import Interaction
from schemas.lookups import Lookup, Reads, Retrieval
from schemas.positions import Source
from schemas.profiles import Author, ProfileEntry, ProfileTask, Summary
from schemas.records import ProducedRecord
from schemas.strategies import Strategy, StrategyChoice
from schemas.tasks import Task
from schemas.topics import INTERACTIONS, LOOKUPS, PROFILES
from streams.history.processor import HistoryProcessor
from streams.profiles.histories import FactorHistories
from streams.profiles.index import ProfileIndex
from streams.profiles.processor import ProfileProcessor
from streams.profiles.summaries import REPEAT_S, Summaries
from streams.retrieval.processor import LookupProcessor
from tests.support.manual_clock import ManualClock
from tests.support.profile_tasks import summary_work
from tests.support.streams_fakes import NOON, MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, interaction, query, search

EVERY = 3
SOURCE = Source(topic="profiles", partition=0, offset=0)


class Stream:
    """The processors that summaries concern, over indexes in memory."""

    def __init__(self, profiles: MemoryIndex | None = None) -> None:
        self.clock = ManualClock()
        history, embedder = MemoryIndex(), WordEmbedder()
        self.profiles = ProfileIndex(profiles or MemoryIndex(), embedder.dimension)
        self._written = ProfileProcessor(self.profiles, embedder, FactorHistories(self.profiles, ProfilesSettings()))
        summaries = Summaries(history, self.profiles, ProfilesSettings(summary_every=EVERY, summary_items=4), self.clock.monotonic)
        self._history = HistoryProcessor(embedder, history, 64, summaries)
        self._lookups = LookupProcessor(search(embedder, history), summaries)
        self._offset = 0

    async def act(self, *interactions: Interaction) -> list[ProfileTask]:
        records = [consumed_record(INTERACTIONS.name, each, offset=self._offset + n) for n, each in enumerate(interactions)]
        self._offset += len(records)
        return tasks(await self._history.handle(records))

    async def ask(self, *, summary: bool = True, after_days: int = 1) -> tuple[Summary | None, list[ProfileTask]]:
        asked = query().model_copy(update={"asked_at": NOON + timedelta(days=after_days)})
        lookup = Lookup(query=asked, choice=StrategyChoice(strategy=Strategy.PAG), reads=Reads(summary=summary))
        retrieval, *others = await self._lookups.handle([consumed_record(LOOKUPS.name, lookup)])
        return Retrieval.from_bytes(retrieval.value).summary, tasks(others)

    async def write(self, task: ProfileTask) -> None:
        """As the profiles worker does."""
        summary = Summary(text=f"of {summary_work(task).count}", count=summary_work(task).count, until=summary_work(task).until)
        entry = ProfileEntry(entry_id=task.task_id, tenant=task.tenant, user=task.user, domain=task.domain, content=summary, author=Author(name="template"))
        await self._written.handle([consumed_record(PROFILES.name, entry)])


def tasks(records: list[ProducedRecord]) -> list[ProfileTask]:
    return [ProfileTask.from_bytes(record.value) for record in records]


def items(*names: str, at: datetime = NOON, user: str = "alice") -> list[Interaction]:
    return [interaction(name, at=at + timedelta(minutes=n), user=user) for n, name in enumerate(names)]


async def summarized() -> Stream:
    """A stream in which alice has a summary of five items."""
    stream = Stream()
    await stream.act(*items(*"abcde"))
    _, (task,) = await stream.ask()
    await stream.write(task)
    return stream


async def test_the_first_lookup_finds_no_summary_and_publishes_the_task() -> None:
    stream = Stream()
    await stream.act(*items(*"abcde"), *items("x", user="bob"))
    summary, (task,) = await stream.ask()
    assert summary is None
    assert (task.user, task.domain, summary_work(task).task, summary_work(task).count, len(summary_work(task).items)) == (
        "alice",
        "movie_tag",
        Task.LABEL,
        5,
        4,
    )
    assert summary_work(task).until == NOON + timedelta(minutes=4)


async def test_the_next_lookup_finds_what_was_written() -> None:
    summary, due = await (await summarized()).ask()
    assert summary and summary.text == "of 5"
    assert due == []


async def test_a_user_without_history_gives_no_task() -> None:
    assert await Stream().ask() == (None, [])


async def test_lookups_of_one_user_at_the_same_time_publish_one_task() -> None:
    stream = Stream()
    await stream.act(*items(*"abcde"))
    due = [tasks for _, tasks in await asyncio.gather(stream.ask(), stream.ask(), stream.ask())]
    assert [len(each) for each in due] == [1, 0, 0]


async def test_a_lookup_that_reads_no_summary_costs_nothing() -> None:
    stream = await summarized()
    assert await stream.ask(summary=False) == (None, [])


async def test_new_items_of_a_user_with_a_summary_make_it_old() -> None:
    stream = await summarized()
    assert await stream.act(*items("f", "g", at=NOON + timedelta(hours=1))) == []
    (task,) = await stream.act(*items("h", at=NOON + timedelta(hours=2)))
    assert (summary_work(task).count, summary_work(task).until) == (8, NOON + timedelta(hours=2))


async def test_new_items_of_users_whom_no_strategy_asked_about_give_no_task() -> None:
    stream = await summarized()
    assert await stream.act(*items(*"rstuvw", user="bob")) == []


async def test_a_query_sees_only_a_summary_of_items_before_it() -> None:
    stream = await summarized()
    (task,) = await stream.act(*items(*"fgh", at=NOON + timedelta(days=3)))
    await stream.write(task)
    before, after = (await stream.ask(after_days=2))[0], (await stream.ask(after_days=9))[0]
    assert before and after and (before.count, after.count) == (5, 8)


async def test_a_task_is_not_published_again_while_it_may_be_at_work() -> None:
    stream = Stream()
    await stream.act(*items(*"abcde"))
    first = (await stream.ask())[1]
    assert (await stream.ask())[1] == []
    await stream.clock.advance(REPEAT_S + 1)
    assert [task.task_id for task in (await stream.ask())[1]] == [task.task_id for task in first]


async def test_items_with_a_blank_response_are_not_summarized() -> None:
    stream = Stream()
    await stream.act(*(each.model_copy(update={"response": " "}) for each in items(*"abc")))
    assert await stream.ask() == (None, [])


@pytest.mark.parametrize("reads", [0, 1])
async def test_a_query_does_not_wait_for_profiles_that_are_away(reads: int) -> None:
    stream = Stream(UnavailableIndex(100))
    await stream.act(*items(*"abcde"))
    for _ in range(reads):
        await stream.ask()
    assert await stream.ask() == (None, [])
    assert await stream.act(*items(*"fgh", at=NOON + timedelta(hours=1))) == []
