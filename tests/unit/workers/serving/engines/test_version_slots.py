"""Several versions in one engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from schemas.promotion import CanaryPrompt
from tests.support.engine_over_fakes import SAMPLING, WAIT_S, Served, version
from workers.serving.engines.engine import NotLoaded, SwapFailed
from workers.serving.engines.fake import CharTemplate, FakeBackend
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.version_slots import VersionCheckpoint


def loaded(served: Served) -> list[str]:
    return [model.version for model in served.engine.loaded]


async def test_a_second_version_answers_those_who_name_it_and_the_champion_the_rest(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2)
    await served.engine.load(served.second, version("2"))
    assert list(await asyncio.gather(served.ask("a"), served.ask("b", "2"), served.ask("c", "1"))) == [("a@1", "1"), ("b@2", "2"), ("c@1", "1")]
    assert (loaded(served), served.engine.champion.version) == (["1", "2"], "1")
    await served.engine.close()


async def test_nobody_waits_while_a_version_is_loaded_warmed_up_and_checked(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2, in_flight=1)
    served.backend.steps = 1_000_000
    endless = asyncio.create_task(served.ask("a"))
    await served.running(1)
    await served.engine.swap(served.second, version("2"), [served.canary_prompt("2")])
    assert not endless.done()
    endless.cancel()
    assert await served.ask("b") == ("b@2", "2")
    await served.engine.close()


async def test_the_version_before_stays_and_serving_it_again_loads_nothing(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2)
    await served.engine.swap(served.second, version("2"))
    served.backends[1].halted = True
    running = asyncio.create_task(served.ask("a"))
    await served.running(1, place=1)
    back = await served.engine.set_champion("1")
    served.backends[1].halted = False
    assert (back.load_ms, back.dropped, (await running)[0]) == (0, 0, "a@2")
    assert await served.ask("b") == ("b@1", "1")
    with pytest.raises(NotLoaded, match="version 3 is not loaded"):
        await served.engine.set_champion("3")
    await served.engine.close()


async def test_the_version_least_lately_needed_gives_way_once_its_requests_have_ended(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2)
    await served.engine.swap(served.second, version("2"))
    assert served.engine.next_evicted == "1"
    served.backend.halted = True
    last = asyncio.create_task(served.ask("a", "1"))
    await served.running(1)
    loading = asyncio.create_task(served.engine.load(served.third, version("3")))
    await served.loading()
    with pytest.raises(NotLoaded):
        await served.ask("b", "1")
    served.backend.halted = False
    assert (await last, (await loading).waited_ms > 0, loaded(served)) == (("a@1", "1"), True, ["3", "2"])
    await served.engine.close()


async def test_of_three_places_the_champion_of_before_keeps_its_own_until_it_is_the_oldest(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=3)
    await served.engine.load(served.second, version("2"))
    await served.engine.swap(served.third, version("3"))
    assert (sorted(loaded(served)), served.engine.next_evicted) == (["1", "2", "3"], "2")
    await served.engine.close()


@pytest.mark.parametrize("versions", [1, 2])
async def test_a_version_that_writes_other_tokens_than_registered_is_taken_back(tmp_path: Path, versions: int) -> None:
    served = Served(tmp_path, versions=versions)
    right, wrong = served.canary_prompt("2"), CanaryPrompt(prompt="x", token_ids=(*map(ord, "x@"), 3))
    with pytest.raises(SwapFailed, match=r"version 2.*canary prompt 2 of 2: token 3 is not the registered one"):
        await served.engine.swap(served.second, version("2"), [right, wrong])
    assert (loaded(served), await served.ask("a")) == (["1"], ("a@1", "1"))
    await served.engine.swap(served.second, version("2"), [right])
    assert await served.ask("a") == ("a@2", "2")
    await served.engine.close()


async def test_a_worker_with_room_for_one_holds_no_challenger(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with pytest.raises(SwapFailed, match=r"reflection\.versions"):
        await served.engine.load(served.second, version("2"))
    await served.engine.close()


async def test_what_does_not_load_beside_the_champion_touches_nobody(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2)
    served.backends[1].refused = {"2"}
    with pytest.raises(SwapFailed, match="do not load"):
        await served.engine.load(served.second, version("2"))
    with pytest.raises(BadCheckpoint, match="hidden_size differs"):
        await served.engine.load(served.stranger, version("4"))
    await served.engine.load(served.third, version("3"))
    assert (loaded(served), await served.ask("a")) == (["1", "3"], ("a@1", "1"))
    await served.engine.close()


async def test_a_version_that_breaks_while_it_is_checked_takes_only_its_place_along(tmp_path: Path) -> None:
    def answer(prompt: str, checkpoint: str) -> str:
        if checkpoint == "2":
            raise RuntimeError("a kernel that cannot")
        return f"{prompt}@{checkpoint}"

    served = Served(tmp_path, versions=2, answer=answer)
    with pytest.raises(SwapFailed, match="generating failed"):
        await served.engine.load(served.second, version("2"))
    assert await served.ask("a") == ("a@1", "1")
    with pytest.raises(RetryLater, match="no slot is left"):  # a challenger does not push the champion out
        await served.engine.load(served.third, version("3"))
    assert (loaded(served), await served.ask("a")) == (["1"], ("a@1", "1"))
    await served.engine.swap(served.third, version("3"))  # in the one place that is left
    assert (loaded(served), await served.ask("a")) == (["3"], ("a@3", "3"))
    await served.engine.close()


async def test_one_version_is_loaded_at_a_time(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2)
    served.backends[1].halted = True
    loads = [asyncio.create_task(served.engine.load(*wanted)) for wanted in ((served.second, version("2")), (served.third, version("3")))]
    await asyncio.wait(loads, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
    served.backends[1].halted = False
    ends = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(end) for end in ends].count(RetryLater) == 1
    await served.engine.close()


def test_an_engine_does_not_start_on_a_version_that_writes_other_tokens(tmp_path: Path) -> None:
    served = Served(tmp_path)
    asyncio.run(served.engine.close())
    first = VersionCheckpoint(version("1"), served.first, (CanaryPrompt(prompt="a", token_ids=(1, 2, 3)),))
    limits = EngineLimits(max_model_len=40, in_flight=4, drain_s=5.0)
    with pytest.raises(Exception, match="token 1 is not the registered one"):
        ServingEngine.start(lambda path: FakeBackend(path, served.answer), CharTemplate(), first, limits)


async def test_a_request_for_a_version_that_goes_before_its_turn_is_told(tmp_path: Path) -> None:
    served = Served(tmp_path, versions=2, in_flight=1)
    await served.engine.load(served.second, version("2"))
    served.backend.steps = 1_000_000
    endless = asyncio.create_task(served.ask("a"))
    await served.running(1)
    waiting = asyncio.create_task(served.engine.generate("b", SAMPLING, "2"))
    await asyncio.sleep(0)
    await served.engine.load(served.third, version("3"))
    endless.cancel()
    with pytest.raises(NotLoaded):
        await waiting
    await served.engine.close()
