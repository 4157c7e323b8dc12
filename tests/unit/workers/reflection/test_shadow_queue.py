from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.telemetry.metrics import SHADOWS, ShadowOutcome
from schemas.experiments import Arm, Assignment
from schemas.ids import derive
from schemas.responses import ModelVersion, ResponseStatus
from schemas.shadows import Shadow
from tests.support.manual_clock import ManualClock, settle
from tests.support.recording_publisher import RecordingPublisher
from tests.support.worker_messages import NOON, make_outcome
from workers.reflection import shadow_queue
from workers.reflection.shadow_queue import ShadowQueue, ShadowRequest
from workers.serving.engines.engine import EngineDied

ASSIGNMENT = Assignment(experiment=derive("experiment"), arm=Arm.SHADOW, version="2")
MODEL = ModelVersion(name="m", version="2", digest="d")


def shadow_request(user: str = "u") -> ShadowRequest:
    return ShadowRequest(make_outcome(user=user).response.context, (), ASSIGNMENT)


class ShadowQueueHarness:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0
        self.in_flight = 0
        self.release = asyncio.Event()
        self.clock, self.publisher = ManualClock(NOON), RecordingPublisher()
        self.queue = ShadowQueue(self._answer, self.publisher, lambda: self.in_flight, concurrency=8, clock=self.clock)
        self.counts_before = dict(SHADOWS.values())

    def count(self, outcome: ShadowOutcome) -> float:
        labels = (("outcome", outcome.value),)
        return SHADOWS.values().get(labels, 0) - self.counts_before.get(labels, 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run())
        await settle()
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _answer(self, request: ShadowRequest) -> Shadow:
        self.calls += 1
        await self.release.wait()
        if self.error:
            raise self.error
        query = request.context.draft.query
        return Shadow(
            shadow_id=derive("shadow", query.query_id), query_id=query.query_id, tenant=query.tenant, user=query.user, domain=query.domain,
            assignment=ASSIGNMENT, model=MODEL, status=ResponseStatus.PERSONALIZED, answer="x", base_answer="y", reflect_ms=1, answered_at=NOON,
        )  # fmt: skip


async def test_a_few_shadow_answers_run_at_once_and_are_published() -> None:
    harness = ShadowQueueHarness()
    for number in range(10):
        harness.queue.submit(shadow_request(str(number)))
    async with harness.running():
        assert harness.calls == shadow_queue.MAX_RUNNING
        harness.release.set()
        await settle()
    assert (harness.calls, {topic for topic, _ in harness.publisher.messages}, harness.count(ShadowOutcome.SENT)) == (10, {"shadows"}, 10)


async def test_shadow_requests_wait_for_low_load_and_are_dropped_after_a_limit() -> None:
    harness = ShadowQueueHarness()
    harness.in_flight = 5  # of a concurrency of eight
    harness.release.set()
    harness.queue.submit(shadow_request())
    async with harness.running():
        await harness.clock.advance(1)
        assert harness.calls == 0
        harness.in_flight = 4
        await harness.clock.advance(1)
        assert harness.calls == 1
        harness.in_flight = 5
        harness.queue.submit(shadow_request())
        await settle()
        await harness.clock.advance(shadow_queue.MAX_WAIT_S + 1)
    assert (harness.calls, harness.count(ShadowOutcome.DROPPED)) == (1, 1)


async def test_requests_beyond_the_queue_size_are_dropped_and_counted() -> None:
    harness = ShadowQueueHarness()
    for _ in range(shadow_queue.MAX_WAITING + 3):
        harness.queue.submit(shadow_request())
    assert harness.count(ShadowOutcome.DROPPED) == 3


async def test_a_failed_shadow_answer_is_logged_and_the_next_is_made(caplog: pytest.LogCaptureFixture) -> None:
    harness = ShadowQueueHarness(TimeoutError())
    harness.release.set()
    harness.queue.submit(shadow_request())
    async with harness.running():
        harness.error = None
        harness.queue.submit(shadow_request())
        await settle()
    assert (harness.count(ShadowOutcome.FAILED), harness.count(ShadowOutcome.SENT)) == (1, 1)
    assert [record.message for record in caplog.records] == ["no shadow answer"]


async def test_a_dead_engine_ends_the_queue() -> None:
    harness = ShadowQueueHarness(EngineDied("gone"))
    harness.release.set()
    harness.queue.submit(shadow_request())
    with pytest.raises(EngineDied):
        await asyncio.wait_for(harness.queue.run(), 5)
