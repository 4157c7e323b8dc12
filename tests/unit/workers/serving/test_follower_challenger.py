"""The follower and the `challenger` alias: loaded beside the champion during an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.settings import Settings
from infra.settings.models import ReflectionSettings
from infra.settings.process import StackSettings
from schemas.promotion import CanaryPrompt, VersionState
from schemas.responses import ModelVersion
from tests.support.manual_clock import ManualClock
from tests.support.stub_engine import StubEngine
from tests.support.table_registry import EXPERIMENT, NOW, NoModelEvents, TableRegistry, registered, step
from tests.support.untouched_folders import untouched
from workers.serving.engines.engine import SwapFailed, SwapResult
from workers.serving.follower import NEWEST_KEPT, Follower
from workers.serving.routes import ChallengerRoute, Routes

ONE, TWO, THREE = (registered(version).model for version in "123")
CANARY_OF_TWO = ChallengerRoute(TWO, VersionState.CANARY, EXPERIMENT, 0.2)


class FollowerWithStubs:
    def __init__(self, folder: Path, *, slots: int = 2, state: VersionState = VersionState.SHADOW) -> None:
        self.registry = TableRegistry("1", challenger="2")
        self.registry.logs["2"] = [step(VersionState.GATED, 1, canary_prompts=(CanaryPrompt(prompt="p", token_ids=(1,)),)), step(state, 2)]
        self.engine = StubEngine(ONE, slots=slots)
        settings = Settings(stack=StackSettings(dir=folder), reflection=ReflectionSettings(versions=slots))
        self.follower = Follower(settings, self.registry, self.engine, NoModelEvents(), ManualClock(NOW))

    async def poll(self) -> Routes:
        await self.follower.poll()
        return self.follower.routes


async def test_a_challenger_is_loaded_checked_and_then_routed_to(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path)
    assert await worker.poll() == Routes(ONE, ChallengerRoute(TWO, VersionState.SHADOW, EXPERIMENT, 0.2))
    assert (worker.engine.done, worker.engine.canary_prompts) == (["load 2"], (CanaryPrompt(prompt="p", token_ids=(1,)),))


async def test_stage_and_share_are_those_of_the_challengers_newest_transition(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path)
    await worker.poll()
    worker.registry.logs["2"].append(step(VersionState.CANARY, 3, share=0.1))
    assert await worker.poll() == Routes(ONE, ChallengerRoute(TWO, VersionState.CANARY, EXPERIMENT, 0.1))
    assert worker.engine.done == ["load 2"]


async def test_a_challenger_that_becomes_champion_leaves_its_experiment_at_once(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path, state=VersionState.CANARY)
    await worker.poll()
    await worker.engine.set_champion("2")
    assert worker.follower.routes == Routes(TWO), "the engine owns the champion"


@pytest.mark.parametrize("ended", [VersionState.REJECTED, VersionState.INCONCLUSIVE])
async def test_no_query_is_routed_to_a_challenger_after_its_experiment(tmp_path: Path, ended: VersionState) -> None:
    worker = FollowerWithStubs(tmp_path)
    await worker.poll()
    worker.registry.logs["2"].append(step(ended, 3))
    assert await worker.poll() == Routes(ONE)
    worker.registry.challenger = None
    assert await worker.poll() == Routes(ONE)


async def test_a_promotion_of_the_challenger_and_a_rollback_load_nothing(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path, state=VersionState.CANARY)
    await worker.poll()
    worker.registry.champion = "2"  # the challenger's alias is removed a moment later
    assert await worker.poll() == Routes(TWO)
    worker.registry.champion, worker.registry.challenger = "1", None
    assert await worker.poll() == Routes(ONE)
    assert worker.engine.done == ["load 2", "set_champion 2", "set_champion 1"]
    assert worker.follower.report("w").swaps == 2


async def test_with_one_version_slot_there_is_no_experiment(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path, slots=1)
    assert (await worker.poll(), worker.engine.done) == (Routes(ONE), [])


async def test_a_worker_that_lost_its_spare_slot_fetches_no_challenger(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path)
    worker.engine.slots = 1  # the other slot broke
    assert (await worker.poll(), worker.registry.fetched) == (Routes(ONE), [])


async def test_a_worker_without_the_champion_takes_part_in_no_experiment_against_it(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path, state=VersionState.CANARY)
    assert (await worker.poll()).challenger == CANARY_OF_TWO
    worker.registry.champion, worker.registry.unsound = "3", {"3"}
    assert await worker.poll() == Routes(ONE)
    worker.registry.unsound = set()
    worker.registry.logs["3"] = [step(VersionState.CHAMPION)]
    assert await worker.poll() == Routes(THREE, CANARY_OF_TWO)


async def test_a_challenger_with_an_unreadable_history_is_ignored(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path, state=VersionState.CANARY)
    await worker.poll()
    worker.registry.unreadable = {"2"}
    worker.registry.champion = "3"
    assert await worker.poll() == Routes(THREE)
    worker.registry.unreadable = {"1"}
    worker.registry.champion = "1"
    assert (await worker.poll()).champion == THREE


async def test_a_refused_challenger_is_reported_and_retried_after_its_record_changes(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path)
    worker.engine.error = SwapFailed("canary prompt 1 of 3")
    assert await worker.poll() == await worker.poll() == Routes(ONE)
    report = worker.follower.report("w")
    assert [(refusal.model, refusal.reason) for refusal in report.refused] == [(TWO, "canary prompt 1 of 3")]
    assert (report.challenger, report.loaded, worker.engine.done) == (None, (ONE,), ["load 2"])
    worker.engine.error = None
    worker.registry.logs["2"].append(step(VersionState.CANARY, 3))
    assert (await worker.poll()).challenger == CANARY_OF_TWO
    assert worker.follower.report("w").refused == ()


async def test_a_new_champion_takes_the_challengers_slot_only_after_its_route_is_removed(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path, state=VersionState.CANARY)
    await worker.poll()
    routed: list[Routes] = []
    swap = worker.engine.swap

    async def record_routes(checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        routed.append(worker.follower.routes)
        return await swap(checkpoint, model, canary_prompts)

    worker.engine.swap = record_routes  # type: ignore[method-assign]  # records the routes during the stub's swap
    worker.registry.champion = "3"
    assert await worker.poll() == Routes(THREE, CANARY_OF_TWO)
    assert routed == [Routes(ONE)]
    assert worker.engine.done == ["load 2", "swap 3", "load 2"]


async def test_unused_checkpoints_are_removed_except_the_newest(tmp_path: Path) -> None:
    worker = FollowerWithStubs(tmp_path)
    for version in range(1, 10):
        untouched(tmp_path / "models" / str(version))
    (tmp_path / "models" / "notes").mkdir()
    await worker.poll()
    newest = [str(version) for version in range(10 - NEWEST_KEPT, 10)]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["1", "2", *newest, "notes"]
