from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.telemetry.metrics import SHADOWS, ShadowOutcome
from schemas.experiments import Arm, Assignment
from schemas.ids import derive
from schemas.messages import Message
from schemas.responses import ModelVersion, ResponseStatus
from schemas.shadows import Shadow
from schemas.topics import Topic
from tests.support.worker_messages import NOON, make_outcome
from workers.reflection import shadow_queue
from workers.reflection.shadow_queue import ShadowQueue, ShadowRequest
from workers.runtime.clock import ManualClock, settle
from workers.serving.engines.engine import EngineDied

ASSIGNMENT = Assignment(experiment=derive("experiment"), arm=Arm.SHADOW, version="2")
MODEL = ModelVersion(name="m", version="2", digest="d")


class Said:
    """Messages that tests read."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []

    async def send(self, topic: Topic, message: Message, id: object) -> None:
        self.messages.append((topic.name, message))


def unseen(user: str = "u") -> ShadowRequest:
    return ShadowRequest(make_outcome(user=user).response.context, (), ASSIGNMENT)


class Site:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0
        self.users = 0
        self.release = asyncio.Event()
        self.clock, self.said = ManualClock(NOON), Said()
        self.shadowing = ShadowQueue(self._answer, self.said, lambda: self.users, concurrency=8, clock=self.clock)
        self.before = dict(SHADOWS.values())

    def counted(self, outcome: ShadowOutcome) -> float:
        labels = (("outcome", outcome.value),)
        return SHADOWS.values().get(labels, 0) - self.before.get(labels, 0)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.shadowing.run())
        await settle()
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _answer(self, asked: ShadowRequest) -> Shadow:
        self.asked += 1
        await self.release.wait()
        if self.error:
            raise self.error
        query = asked.context.draft.query
        return Shadow(
            shadow_id=derive("shadow", query.query_id), query_id=query.query_id, tenant=query.tenant, user=query.user, domain=query.domain,
            assignment=ASSIGNMENT, model=MODEL, status=ResponseStatus.PERSONALIZED, answer="x", base_answer="y", reflect_ms=1, answered_at=NOON,
        )  # fmt: skip


async def test_a_few_are_made_at_once_and_said_on_their_topic() -> None:
    site = Site()
    for number in range(10):
        site.shadowing.submit(unseen(str(number)))
    async with site.working():
        assert site.asked == shadow_queue.MAX_RUNNING
        site.release.set()
        await settle()
    assert (site.asked, {topic for topic, _ in site.said.messages}, site.counted(ShadowOutcome.SENT)) == (10, {"shadows"}, 10)


async def test_nothing_begins_while_many_users_wait_and_what_waits_too_long_is_dropped() -> None:
    site = Site()
    site.users = 5  # of eight places
    site.release.set()
    site.shadowing.submit(unseen())
    async with site.working():
        await site.clock.advance(1)
        assert site.asked == 0
        site.users = 4
        await site.clock.advance(1)
        assert site.asked == 1
        site.users = 5
        site.shadowing.submit(unseen())
        await settle()
        await site.clock.advance(shadow_queue.MAX_WAIT_S + 1)
    assert (site.asked, site.counted(ShadowOutcome.DROPPED)) == (1, 1)


async def test_what_does_not_fit_the_queue_is_dropped_and_counted() -> None:
    site = Site()
    for _ in range(shadow_queue.MAX_WAITING + 3):
        site.shadowing.submit(unseen())
    assert site.counted(ShadowOutcome.DROPPED) == 3


async def test_one_that_fails_is_logged_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(TimeoutError())
    site.release.set()
    site.shadowing.submit(unseen())
    async with site.working():
        site.error = None
        site.shadowing.submit(unseen())
        await settle()
    assert (site.counted(ShadowOutcome.FAILED), site.counted(ShadowOutcome.SENT)) == (1, 1)
    assert [record.message for record in caplog.records] == ["no shadow answer"]


async def test_a_dead_engine_ends_the_work() -> None:
    site = Site(EngineDied("gone"))
    site.release.set()
    site.shadowing.submit(unseen())
    with pytest.raises(EngineDied):
        await asyncio.wait_for(site.shadowing.run(), 5)
