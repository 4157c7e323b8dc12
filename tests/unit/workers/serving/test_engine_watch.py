"""A worker's readiness beside its engine: false while the engine makes no step, and the worker ends if that lasts or if the engine has ended."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from infra.process.health import Condition, Health
from tests.support.fake_backend_engine import SAMPLING, WAIT_S, FakeBackendEngine
from workers.serving import engine_watch
from workers.serving.engine_watch import watch_engine
from workers.serving.engines.engine import EngineDied


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> Health:
    """A state of its own, of a process that has started."""
    health = Health()
    health.report(Condition.STARTING, None)
    monkeypatch.setattr(engine_watch, "HEALTH", health)
    return health


@pytest.fixture
def may_answer() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def until(condition: str, health: Health) -> None:
    """Until the health has this one problem, or none if it is empty."""
    deadline = time.monotonic() + WAIT_S
    while [problem.partition(" for ")[0] for problem in health.problems()] != ([condition] if condition else []):
        assert time.monotonic() < deadline, health.problems()
        await asyncio.sleep(0.01)


async def test_an_engine_without_requests_is_ready(tmp_path: Path, health: Health) -> None:
    engine = FakeBackendEngine(tmp_path).engine
    watch = asyncio.ensure_future(watch_engine(engine, 0.05))
    await asyncio.sleep(0.3)
    assert not watch.done() and health.problems() == [] and engine.stalled_s == 0
    watch.cancel()
    await engine.close()


async def test_a_step_that_does_not_end_makes_the_worker_unready(tmp_path: Path, health: Health, may_answer: threading.Event) -> None:
    fake = FakeBackendEngine(tmp_path, answer=lambda prompt, _: prompt if prompt != "hi" or may_answer.wait(WAIT_S) else "")
    watch, request = asyncio.ensure_future(watch_engine(fake.engine, 4 * WAIT_S / 100)), asyncio.ensure_future(fake.engine.generate("hi", SAMPLING))
    await until("engine: the engine has made no step", health)
    assert not watch.done()
    may_answer.set()
    assert (await request).text == "hi"
    await until("", health)
    watch.cancel()
    await fake.engine.close()


async def test_a_step_that_does_not_end_in_time_ends_the_worker(tmp_path: Path, health: Health, may_answer: threading.Event) -> None:
    fake = FakeBackendEngine(tmp_path, answer=lambda prompt, _: prompt if prompt != "hi" or may_answer.wait(WAIT_S) else "")
    request = asyncio.ensure_future(fake.engine.generate("hi", SAMPLING))
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(EngineDied, match="made no step for"):
            await watch_engine(fake.engine, 0.2)
    assert health.problems()[0].startswith("engine: the engine made no step for")
    request.cancel()


async def test_an_engine_that_died_ends_the_worker_also_without_a_request(tmp_path: Path, health: Health) -> None:
    def fails(prompt: str, checkpoint: str) -> str:
        if prompt == "hi":
            raise RuntimeError("a kernel failed")
        return prompt

    fake = FakeBackendEngine(tmp_path, answer=fails)
    with suppress(EngineDied):
        await fake.engine.generate("hi", SAMPLING)
    with pytest.raises(EngineDied, match="the engine died: RuntimeError"):
        await watch_engine(fake.engine, WAIT_S)
    assert health.problems() == ["engine: the engine died: RuntimeError"]
