from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from schemas.promotion import CanaryPrompt
from tests.support.checkpoint_files import write_checkpoint
from tests.support.fake_backend import CharTokenizer, FakeBackend
from tests.support.fake_backend_engine import SAMPLING, FakeBackendEngine, version
from workers.serving.engines.engine import EngineDied, GenerationFailed, StartStopped, SwapFailed
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.version_slots import VersionCheckpoint


async def test_answers_carry_the_version_they_were_admitted_under_through_a_swap(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    fake.backend.halted = True
    before = [asyncio.create_task(fake.engine.generate(f"a{i}", SAMPLING)) for i in range(20)]
    await fake.running(4)
    swapping = asyncio.create_task(fake.engine.swap(fake.second, version("2")))
    await fake.loading()
    fake.backend.halted = False
    swap = await swapping
    after = await asyncio.gather(*[fake.engine.generate(f"b{i}", SAMPLING) for i in range(5)])
    answers = [*await asyncio.gather(*before), *after]
    assert [answer.text.split("@")[1] for answer in answers] == [answer.model.version for answer in answers]
    assert {answer.model.version for answer in after} == {"2"}
    assert (swap.in_flight, swap.dropped) == (4, 0)
    await fake.engine.close()


async def test_requests_that_come_during_a_swap_wait_for_the_new_version(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    fake.backend.halted = True
    running = asyncio.create_task(fake.engine.generate("a", SAMPLING))
    await fake.running(1)
    swapping = asyncio.create_task(fake.engine.swap(fake.second, version("2")))
    await fake.loading()
    late = asyncio.create_task(fake.engine.generate("b", SAMPLING))
    await asyncio.sleep(0)
    fake.backend.halted = False
    assert [(await running).text, (await late).text] == ["a@1", "b@2"]
    assert (await swapping).waited_ms > 0
    await fake.engine.close()


async def test_weights_that_fail_to_load_leave_the_old_version_serving(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    fake.backend.refused = {"2"}
    with pytest.raises(SwapFailed, match="do not load"):
        await fake.engine.swap(fake.second, version("2"))
    with pytest.raises(BadCheckpoint, match="hidden_size differs"):
        await fake.engine.swap(fake.misfit, version("3"))
    answer = await fake.engine.generate("a", SAMPLING)
    assert (answer.text, answer.model.version) == ("a@1", "1")
    await fake.engine.close()


async def test_versions_are_compared_also_after_the_first_ones_files_are_removed(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    shutil.rmtree(fake.first)
    with pytest.raises(BadCheckpoint, match="hidden_size differs"):
        await fake.engine.swap(fake.misfit, version("4"))
    await fake.engine.swap(fake.second, version("2"))
    assert await fake.ask("a") == ("a@2", "2")
    await fake.engine.close()


async def test_a_version_whose_files_vanish_after_the_fetch_raises_retry_later(tmp_path: Path) -> None:
    def remove(prompt: str, checkpoint: str) -> str:
        if checkpoint == "3":
            shutil.rmtree(fake.third, ignore_errors=True)  # before the first of two checks ends
        return prompt

    fake = FakeBackendEngine(tmp_path, answer=remove)
    shutil.rmtree(fake.second)
    with pytest.raises(RetryLater, match=r"/2 was removed after it was fetched"):
        await fake.engine.swap(fake.second, version("2"))
    with pytest.raises(RetryLater, match=r"/3 was removed after it was fetched"):
        await fake.engine.swap(fake.third, version("3"), [CanaryPrompt(prompt="a", token_ids=(1,))])
    assert await fake.ask("a") == ("a", "1")
    await fake.engine.close()


async def test_a_swap_fails_if_running_requests_do_not_end_in_time(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, drain_s=0.05)
    fake.backend.steps = 1000
    stuck = asyncio.create_task(fake.engine.generate("a", SAMPLING))
    await fake.running(1)
    with pytest.raises(RetryLater, match="1 requests were still in flight"):
        await fake.engine.swap(fake.second, version("2"))
    stuck.cancel()
    fake.backend.steps = 1
    assert (await fake.engine.generate("b", SAMPLING)).text == "b@1"
    await fake.engine.close()


async def test_a_cancelled_request_is_aborted_in_the_backend(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, in_flight=1)
    fake.backend.steps = 1000
    gone = asyncio.create_task(fake.engine.generate("a", SAMPLING))
    await fake.running(1)
    gone.cancel()
    fake.backend.steps = 1
    assert (await fake.engine.generate("b", SAMPLING)).text == "b@1"
    assert not fake.backend.steps_left
    await fake.engine.close()


async def test_a_refused_or_overlong_request_fails_alone(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    asked = [fake.engine.generate(prompt, SAMPLING) for prompt in ("refuse me", "x" * 31, "fine")]
    refused, overlong, fine = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, GenerationFailed)
    assert isinstance(overlong, GenerationFailed)
    assert not isinstance(fine, BaseException)
    await fake.engine.close()


async def test_a_dead_engine_fails_waiting_and_later_requests(tmp_path: Path) -> None:
    def die(prompt: str, checkpoint: str) -> str:
        if prompt == "deadly":
            raise RuntimeError("out of memory")
        return prompt

    fake = FakeBackendEngine(tmp_path, in_flight=2, answer=die)
    asked = [fake.engine.generate(prompt, SAMPLING) for prompt in ("deadly", "a", "b", "c")]
    assert [type(end) for end in await asyncio.gather(*asked, return_exceptions=True)] == [EngineDied] * 4
    with pytest.raises(EngineDied):
        await fake.engine.generate("d", SAMPLING)
    with pytest.raises(EngineDied):
        await fake.engine.swap(fake.second, version("2"))


async def test_closing_fails_waiting_requests_and_ends_the_thread(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    fake.backend.steps = 1000
    waiting = asyncio.create_task(fake.engine.generate("a", SAMPLING))
    await fake.running(1)
    await fake.engine.close()
    with pytest.raises(GenerationFailed, match="closed"):
        await waiting
    assert not fake.engine._thread.is_alive()


def test_a_stop_does_not_wait_for_a_model_that_is_loading(tmp_path: Path) -> None:
    checkpoint, loaded, stop = write_checkpoint(tmp_path / "1"), threading.Event(), threading.Event()
    backend = FakeBackend(checkpoint, lambda prompt, _: prompt)

    def load_slowly(path: Path) -> FakeBackend:
        loaded.wait(30)
        return backend

    threading.Timer(0.05, stop.set).start()
    with pytest.raises(StartStopped):
        ServingEngine.start(
            load_slowly, CharTokenizer(), VersionCheckpoint(version("1"), checkpoint), EngineLimits(max_model_len=40, in_flight=4, drain_s=5.0), stop
        )
    loaded.set()
    for thread in threading.enumerate():
        if thread.name == "engine":
            thread.join(30)
            assert not thread.is_alive(), "an abandoned load closes by itself"
