"""Cases on a running system, one after another: a version comes, goes its way, and after each of its transitions a process is killed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.verification import inspect_checkpoint
from infra.errors import CannotContinue, RetouchError
from infra.registry.client import Registry
from lab.promotion.live.kills import Killed, Kills
from lab.promotion.live.scenarios import CHAMPION, REGISTRY, WORKER, LiveCase, LiveScenario, course, way
from lab.promotion.live.system import LiveSystem, database
from lab.promotion.live.users import ObservedAnswer, SimulatedUsers
from lab.promotion.live.watch import RegistryWatcher
from schemas.experiments import Arm
from schemas.promotion import VersionState
from trainer.judge.gate_result import gate_tag
from trainer.promotion.discovery import find_promoter
from trainer.promotion.version_history import VersionHistories

#: A case must have ended so long after it began, and the system must answer everything so long after the last one.
CASE_S, DRAIN_S, OPERATOR_S = 300.0, 120.0, 90.0
AGAIN_S = 0.5
#: Of each weight of the versions that come, relative: other words in part of the answers, nearly all of which can still be read.
NOISE = 0.25


@dataclass
class CaseResult:
    """How a case went."""

    case: LiveCase
    version: str
    kills: Sequence[Killed] = ()
    ended: dict[str, Any] | None = None  # None: not within its time
    seconds: float = 0.0
    way: tuple[VersionState, ...] = ()


class CaseRunner:
    """Use it from the thread that made the system. `reward` tells users what answers of a version are worth."""

    def __init__(self, system: LiveSystem, seed: int) -> None:
        self.system = system
        self.watch = RegistryWatcher(database(system.place), system.settings.registry.model_name)
        self._scenarios: dict[str, LiveScenario] = {}
        self.users = SimulatedUsers(system.settings, seed, lambda version: self._scenarios[version].reward)
        self.registry = Registry(system.settings)
        self.checkpoint = noisy(checkpoint_folder(system.settings.reflection.checkpoint), system.place / "noisy", seed)
        self._operator = ThreadPoolExecutor(1, thread_name_prefix="operator")

    def close(self) -> None:
        self._operator.shutdown(cancel_futures=True)
        self.users.__exit__()

    def warm_up(self) -> None:
        """Until the first champion answers."""
        self._until(lambda: any(answer.model for answer in self.users.answers), CASE_S)

    def perform(self, case: LiveCase) -> CaseResult:
        """Blocks. A case that does not come to its end is a finding; raises CannotContinue only where the system itself does not come back."""
        began = time.monotonic()
        self._until(lambda: self.system.serves(REGISTRY), CASE_S)
        before = self.watch.histories
        played = CaseResult(case, self._register(case.scenario, before))
        kills = Kills(case.kills, before, self.system.kill)
        asking: Future[None] | None = None
        while time.monotonic() - began < CASE_S:
            self._tick()
            kills.step(self.watch.histories)
            if asking is None and case.scenario.rolls_back and self._answers_everybody(played.version):
                asking = self._operator.submit(self._roll_back, played.version)
            if asking and asking.done():
                asking.result()  # raises what nobody expects of an operator's command
            if kills.are_done and self._is_settled(before, played):
                played.ended = course(before, self.watch.histories, played.version)
                break
        played.seconds = round(time.monotonic() - began, 1)
        played.way = self._way(played.version)
        played.kills = kills.done
        return played

    def drain(self) -> bool:
        """Ask nothing more; whether everything was answered and all processes serve."""
        try:
            self._until(lambda: self.users.open == 0 and all(map(self.system.serves, (WORKER, REGISTRY))), DRAIN_S, is_asking=False)
        except CannotContinue:
            return False
        self._until_quiet()
        return True

    def _until_quiet(self) -> None:
        """A moment longer: an answer that is given twice comes late."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            self._tick(is_asking=False)

    def _until(self, holds: Callable[[], bool], within_s: float, *, is_asking: bool = True) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise CannotContinue(f"the system was not there within {within_s:g} s; logs are in {self.system.place / 'logs'}")
            self._tick(is_asking=is_asking)

    def _tick(self, *, is_asking: bool = True) -> None:
        self.system.step()
        self.watch.look()
        self.users.step(is_asking=is_asking)

    def _register(self, scenario: LiveScenario, before: VersionHistories) -> str:
        champion = self.registry.get(CHAMPION)
        tag = gate_tag(scenario.gate.about(inspect_checkpoint(self.checkpoint).digest, champion.digest))
        number = str(len(before.versions) + 1)
        self._scenarios[number] = scenario
        found = self.registry.register(self.checkpoint, parent=CHAMPION, tags=tag)
        if found.version != number:
            raise CannotContinue(f"version {found.version} was registered, not {number}: somebody else is at work")
        return number

    def _way(self, version: str) -> tuple[VersionState, ...]:
        found = self.watch.histories.get(version)
        return way(found) if found else ()

    def _answers_everybody(self, version: str) -> bool:
        return any(_is_by(answer, version) for answer in self.users.answers[-20:])

    def _is_settled(self, before: VersionHistories, played: CaseResult) -> bool:
        """The version is where it belongs, the aliases follow, every step was said, and the champion answers everybody again."""
        histories = self.watch.histories
        version, champion = histories.get(played.version), histories.get(CHAMPION)
        if version is None or champion is None or version.state is not played.case.scenario.ends or champion.state is not VersionState.CHAMPION:
            return False
        named = {alias.value: found.version for found in histories.versions for alias in found.aliases}
        said = {(found.version, step.seq) for found in (version, champion) for step in found.transitions}
        since = max(step.at for found in (version, champion) for step in found.transitions)
        answered = [answer for answer in self.users.answers[-20:] if answer.at > since and _is_by(answer, CHAMPION)]
        return named == {"champion": CHAMPION} and said <= self.users.events and bool(answered)

    def _roll_back(self, version: str) -> None:
        """An operator, who was cut off perhaps, looks first and asks again where it was not done."""
        deadline = time.monotonic() + OPERATOR_S
        while time.monotonic() < deadline:
            champion = self.watch.histories.champion
            if champion is None or champion.version != version:
                return
            try:
                find_promoter(self.system.settings).rollback(None, version, "ada", "users complain")
            except RetouchError:
                time.sleep(AGAIN_S)


def noisy(source: Path, folder: Path, seed: int) -> Path:
    """A copy of a checkpoint with a little noise on its weights."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, folder)
    chance = np.random.default_rng(seed)
    tensors = load_file(source / "model.safetensors")
    changed = {name: (tensor * (1 + NOISE * chance.standard_normal(tensor.shape))).astype(tensor.dtype) for name, tensor in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _is_by(answer: ObservedAnswer, version: str) -> bool:
    """By the champion, who then is this version, outside any experiment."""
    found = answer.assignment
    return bool(answer.model and answer.model.version == version and found and found.experiment is None and found.arm is Arm.CHAMPION)
