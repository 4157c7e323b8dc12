"""Following `challenger`: held beside the champion while an experiment is under way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.settings import ReflectionSettings, Settings, StackSettings
from schemas.promotion import CanaryPrompt, VersionState
from schemas.responses import ModelVersion
from tests.support.stub_engine import StubEngine
from tests.support.table_registry import EXPERIMENT, NOW, NoModelEvents, TableRegistry, registered, step
from tests.support.untouched_folders import untouched
from workers.runtime.clock import ManualClock
from workers.serving.engines.engine import SwapFailed, SwapResult
from workers.serving.follower import Follower
from workers.serving.routes import ChallengerRoute, Routes
from workers.serving.version_files import NEWEST_KEPT

ONE, TWO, THREE = (registered(version).model for version in "123")
CANARY_OF_TWO = ChallengerRoute(TWO, VersionState.CANARY, EXPERIMENT, 0.2)


class Site:
    def __init__(self, folder: Path, *, room: int = 2, state: VersionState = VersionState.SHADOW) -> None:
        self.registry = TableRegistry("1", challenger="2")
        self.registry.logs["2"] = [step(VersionState.GATED, 1, canary_prompts=(CanaryPrompt(prompt="p", token_ids=(1,)),)), step(state, 2)]
        self.engine = StubEngine(ONE, room=room)
        settings = Settings(stack=StackSettings(dir=folder), reflection=ReflectionSettings(versions=room))
        self.follower = Follower(settings, self.registry, self.engine, NoModelEvents(), ManualClock(NOW))

    async def poll(self) -> Routes:
        await self.follower.poll()
        return self.follower.routes


async def test_a_challenger_is_loaded_checked_and_then_routed_to(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert await site.poll() == Routes(ONE, ChallengerRoute(TWO, VersionState.SHADOW, EXPERIMENT, 0.2))
    assert (site.engine.done, site.engine.canary_prompts) == (["load 2"], (CanaryPrompt(prompt="p", token_ids=(1,)),))


async def test_its_stage_and_share_are_those_of_its_newest_transition(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.poll()
    site.registry.logs["2"].append(step(VersionState.CANARY, 3, share=0.1))
    assert await site.poll() == Routes(ONE, ChallengerRoute(TWO, VersionState.CANARY, EXPERIMENT, 0.1))
    assert site.engine.done == ["load 2"]


async def test_a_challenger_that_becomes_champion_leaves_its_experiment_at_once(tmp_path: Path) -> None:
    site = Site(tmp_path, state=VersionState.CANARY)
    await site.poll()
    await site.engine.set_champion("2")
    assert site.follower.routes == Routes(TWO), "the engine owns the champion"


@pytest.mark.parametrize("ended", [VersionState.REJECTED, VersionState.INCONCLUSIVE])
async def test_nobody_is_routed_to_one_whose_experiment_has_ended(tmp_path: Path, ended: VersionState) -> None:
    site = Site(tmp_path)
    await site.poll()
    site.registry.logs["2"].append(step(ended, 3))
    assert await site.poll() == Routes(ONE)
    site.registry.challenger = None
    assert await site.poll() == Routes(ONE)


async def test_a_challenger_that_becomes_champion_is_not_loaded_again_nor_is_the_old_one_at_a_rollback(tmp_path: Path) -> None:
    site = Site(tmp_path, state=VersionState.CANARY)
    await site.poll()
    site.registry.champion = "2"  # the alias of the challenger goes a moment later
    assert await site.poll() == Routes(TWO)
    site.registry.champion, site.registry.challenger = "1", None
    assert await site.poll() == Routes(ONE)
    assert site.engine.done == ["load 2", "set_champion 2", "set_champion 1"]
    assert site.follower.report("w").swaps == 2


async def test_with_room_for_one_there_is_no_experiment(tmp_path: Path) -> None:
    site = Site(tmp_path, room=1)
    assert (await site.poll(), site.engine.done) == (Routes(ONE), [])


async def test_who_lost_the_place_for_a_challenger_is_in_no_experiment_and_fetches_none(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.engine.room = 1  # the other place broke
    assert (await site.poll(), site.registry.fetched) == (Routes(ONE), [])


async def test_who_does_not_serve_the_champion_is_in_no_experiment_against_it(tmp_path: Path) -> None:
    site = Site(tmp_path, state=VersionState.CANARY)
    assert (await site.poll()).challenger == CANARY_OF_TWO
    site.registry.champion, site.registry.unsound = "3", {"3"}
    assert await site.poll() == Routes(ONE)
    site.registry.unsound = set()
    site.registry.logs["3"] = [step(VersionState.CHAMPION)]
    assert await site.poll() == Routes(THREE, CANARY_OF_TWO)


async def test_a_challenger_whose_log_cannot_be_read_is_left_alone_and_the_champion_is_followed(tmp_path: Path) -> None:
    site = Site(tmp_path, state=VersionState.CANARY)
    await site.poll()
    site.registry.unreadable = {"2"}
    site.registry.champion = "3"
    assert await site.poll() == Routes(THREE)
    site.registry.unreadable = {"1"}
    site.registry.champion = "1"
    assert (await site.poll()).champion == THREE


async def test_a_refused_challenger_is_reported_and_tried_again_when_its_record_has_changed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.engine.error = SwapFailed("canary prompt 1 of 3")
    assert await site.poll() == await site.poll() == Routes(ONE)
    report = site.follower.report("w")
    assert [(refusal.model, refusal.reason) for refusal in report.refused] == [(TWO, "canary prompt 1 of 3")]
    assert (report.challenger, report.loaded, site.engine.done) == (None, (ONE,), ["load 2"])
    site.engine.error = None
    site.registry.logs["2"].append(step(VersionState.CANARY, 3))
    assert (await site.poll()).challenger == CANARY_OF_TWO
    assert site.follower.report("w").refused == ()


async def test_another_champion_takes_the_challengers_place_only_once_nobody_is_routed_there(tmp_path: Path) -> None:
    site = Site(tmp_path, state=VersionState.CANARY)
    await site.poll()
    routed: list[Routes] = []
    swap = site.engine.swap

    async def watched(checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        routed.append(site.follower.routes)
        return await swap(checkpoint, model, canary_prompts)

    site.engine.swap = watched  # type: ignore[method-assign]  # the stub's own, seen from outside
    site.registry.champion = "3"
    assert await site.poll() == Routes(THREE, CANARY_OF_TWO)
    assert routed == [Routes(ONE)]
    assert site.engine.done == ["load 2", "swap 3", "load 2"]


async def test_checkpoints_that_nobody_uses_go_from_the_disk_but_the_newest(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for version in range(1, 10):
        untouched(tmp_path / "models" / str(version))
    (tmp_path / "models" / "notes").mkdir()
    await site.poll()
    newest = [str(version) for version in range(10 - NEWEST_KEPT, 10)]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["1", "2", *newest, "notes"]
