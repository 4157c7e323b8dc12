"""Version slots, in an engine over fake backends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from schemas.promotion import CanaryPrompt
from tests.support.fake_backend import CharTokenizer, FakeBackend
from tests.support.fake_backend_engine import SAMPLING, WAIT_S, FakeBackendEngine, version
from workers.serving.engines.engine import NotLoaded, SwapFailed
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.version_slots import VersionCheckpoint


def loaded(fake: FakeBackendEngine) -> list[str]:
    return [model.version for model in fake.engine.loaded]


async def test_the_champion_answers_requests_that_name_no_version(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2)
    await fake.engine.load(fake.second, version("2"))
    assert list(await asyncio.gather(fake.ask("a"), fake.ask("b", "2"), fake.ask("c", "1"))) == [("a@1", "1"), ("b@2", "2"), ("c@1", "1")]
    assert (loaded(fake), fake.engine.champion.version) == (["1", "2"], "1")
    await fake.engine.close()


async def test_no_request_waits_while_another_version_is_loaded_and_checked(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2, in_flight=1)
    fake.backend.steps = 1_000_000
    endless = asyncio.create_task(fake.ask("a"))
    await fake.running(1)
    await fake.engine.swap(fake.second, version("2"), [fake.canary_prompt("2")])
    assert not endless.done()
    endless.cancel()
    assert await fake.ask("b") == ("b@2", "2")
    await fake.engine.close()


async def test_the_previous_champion_stays_loaded_and_becomes_champion_without_a_load(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2)
    await fake.engine.swap(fake.second, version("2"))
    fake.backends[1].halted = True
    running = asyncio.create_task(fake.ask("a"))
    await fake.running(1, slot=1)
    back = await fake.engine.set_champion("1")
    fake.backends[1].halted = False
    assert (back.load_ms, back.dropped, (await running)[0]) == (0, 0, "a@2")
    assert await fake.ask("b") == ("b@1", "1")
    with pytest.raises(NotLoaded, match="version 3 is not loaded"):
        await fake.engine.set_champion("3")
    await fake.engine.close()


async def test_the_least_recently_needed_version_is_evicted_after_its_requests_end(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2)
    await fake.engine.swap(fake.second, version("2"))
    assert fake.engine.next_evicted == "1"
    fake.backend.halted = True
    last = asyncio.create_task(fake.ask("a", "1"))
    await fake.running(1)
    loading = asyncio.create_task(fake.engine.load(fake.third, version("3")))
    await fake.loading()
    with pytest.raises(NotLoaded):
        await fake.ask("b", "1")
    fake.backend.halted = False
    assert (await last, (await loading).waited_ms > 0, loaded(fake)) == (("a@1", "1"), True, ["3", "2"])
    await fake.engine.close()


async def test_in_three_slots_the_previous_champion_is_not_evicted_first(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=3)
    await fake.engine.load(fake.second, version("2"))
    await fake.engine.swap(fake.third, version("3"))
    assert (sorted(loaded(fake)), fake.engine.next_evicted) == (["1", "2", "3"], "2")
    await fake.engine.close()


@pytest.mark.parametrize("versions", [1, 2])
async def test_a_version_that_fails_a_canary_prompt_is_unloaded(tmp_path: Path, versions: int) -> None:
    fake = FakeBackendEngine(tmp_path, versions=versions)
    right, wrong = fake.canary_prompt("2"), CanaryPrompt(prompt="x", token_ids=(*map(ord, "x@"), 3))
    with pytest.raises(SwapFailed, match=r"version 2.*canary prompt 2 of 2: token 3 is not the registered one"):
        await fake.engine.swap(fake.second, version("2"), [right, wrong])
    assert (loaded(fake), await fake.ask("a")) == (["1"], ("a@1", "1"))
    await fake.engine.swap(fake.second, version("2"), [right])
    assert await fake.ask("a") == ("a@2", "2")
    await fake.engine.close()


async def test_an_engine_with_one_slot_loads_no_challenger(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    with pytest.raises(SwapFailed, match=r"reflection\.versions"):
        await fake.engine.load(fake.second, version("2"))
    await fake.engine.close()


async def test_a_failed_load_beside_the_champion_affects_no_request(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2)
    fake.backends[1].refused = {"2"}
    with pytest.raises(SwapFailed, match="do not load"):
        await fake.engine.load(fake.second, version("2"))
    with pytest.raises(BadCheckpoint, match="hidden_size differs"):
        await fake.engine.load(fake.misfit, version("4"))
    await fake.engine.load(fake.third, version("3"))
    assert (loaded(fake), await fake.ask("a")) == (["1", "3"], ("a@1", "1"))
    await fake.engine.close()


async def test_a_version_that_breaks_during_its_check_costs_only_its_slot(tmp_path: Path) -> None:
    def answer(prompt: str, checkpoint: str) -> str:
        if checkpoint == "2":
            raise RuntimeError("a kernel failed")
        return f"{prompt}@{checkpoint}"

    fake = FakeBackendEngine(tmp_path, versions=2, answer=answer)
    with pytest.raises(SwapFailed, match="generating failed"):
        await fake.engine.load(fake.second, version("2"))
    assert await fake.ask("a") == ("a@1", "1")
    with pytest.raises(RetryLater, match="no slot is left"):  # a challenger does not evict the champion
        await fake.engine.load(fake.third, version("3"))
    assert (loaded(fake), await fake.ask("a")) == (["1"], ("a@1", "1"))
    await fake.engine.swap(fake.third, version("3"))  # into the only slot left
    assert (loaded(fake), await fake.ask("a")) == (["3"], ("a@3", "3"))
    await fake.engine.close()


async def test_one_version_is_loaded_at_a_time(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2)
    fake.backends[1].halted = True
    loads = [asyncio.create_task(fake.engine.load(*version_to_load)) for version_to_load in ((fake.second, version("2")), (fake.third, version("3")))]
    await asyncio.wait(loads, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
    fake.backends[1].halted = False
    ends = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(end) for end in ends].count(RetryLater) == 1
    await fake.engine.close()


def test_an_engine_does_not_start_on_a_version_that_fails_a_canary_prompt(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path)
    asyncio.run(fake.engine.close())
    first = VersionCheckpoint(version("1"), fake.first, (CanaryPrompt(prompt="a", token_ids=(1, 2, 3)),))
    limits = EngineLimits(max_model_len=40, in_flight=4, drain_s=5.0)
    with pytest.raises(Exception, match="token 1 is not the registered one"):
        ServingEngine.start(lambda path: FakeBackend(path, fake.answer), CharTokenizer(), first, limits)


async def test_a_waiting_request_for_an_evicted_version_raises_not_loaded(tmp_path: Path) -> None:
    fake = FakeBackendEngine(tmp_path, versions=2, in_flight=1)
    await fake.engine.load(fake.second, version("2"))
    fake.backend.steps = 1_000_000
    endless = asyncio.create_task(fake.ask("a"))
    await fake.running(1)
    waiting = asyncio.create_task(fake.engine.generate("b", SAMPLING, "2"))
    await asyncio.sleep(0)
    await fake.engine.load(fake.third, version("3"))
    endless.cancel()
    with pytest.raises(NotLoaded):
        await waiting
    await fake.engine.close()
