"""Runs cases on a running system, one after another: registers a version, and kills a process after each of its transitions."""

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
from lab.promotion.live.registry_watcher import RegistryWatcher
from lab.promotion.live.scenarios import CHAMPION, REGISTRY, WORKER, Kill, LiveCase, LiveScenario, is_own_step, outcome, states
from lab.promotion.live.simulated_users import ObservedAnswer, ScoringUsers
from lab.promotion.live.system import LiveSystem, database
from schemas.experiments import Arm
from schemas.promotion import Transition, VersionState
from trainer.judge.gate import gate_tag
from trainer.promotion.discovery import find_promoter
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.version_history import VersionHistories


@dataclass(frozen=True)
class ExecutedKill:
    """A kill that was executed: the transition before it, and the seconds since that was read."""

    victim: str
    after: VersionState
    late_s: float


class KillSchedule:
    """`kill` ends the process of that name, and returns whether there was one."""

    def __init__(self, planned: Sequence[Kill], before: VersionHistories, kill: Callable[[str], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._planned, self._kill, self._clock = planned, kill, clock
        self._processed = set(_steps(before))
        self._scheduled = 0  # number of planned kills whose transition was read
        self._due: list[tuple[float, float, Kill, VersionState]] = []
        self.done: list[ExecutedKill] = []

    @property
    def are_done(self) -> bool:
        return len(self.done) >= len(self._planned)

    def step(self, histories: VersionHistories) -> None:
        """Schedule kills for new transitions, and execute those that are due."""
        now = self._clock()
        for name, step in _steps(histories).items():
            if name not in self._processed and is_own_step(step) and self._scheduled < len(self._planned):
                kill = self._planned[self._scheduled]
                self._due.append((now + kill.delay_s, now, kill, step.after))
                self._scheduled += 1
            self._processed.add(name)
        for due in [due for due in self._due if due[0] <= now]:
            _, read_at, kill, after = due
            if self._kill(kill.victim):
                self._due.remove(due)
                self.done.append(ExecutedKill(kill.victim, after, round(self._clock() - read_at, 2)))


def _steps(histories: VersionHistories) -> dict[tuple[str, int], Transition]:
    """Oldest first."""
    steps = [(step, version.version) for version in histories.versions for step in version.transitions]
    return {(version, step.seq): step for step, version in sorted(steps, key=lambda pair: pair[0].at)}


#: Time limits of a case, of the answers to all questions after the last case, and of an operator command.
CASE_S, DRAIN_S, OPERATOR_S = 300.0, 120.0, 90.0
RETRY_S = 0.5
#: Relative noise on each weight of the new versions: part of their answers differ, and nearly all still parse.
NOISE = 0.25


@dataclass
class CaseResult:
    """Result of one case."""

    case: LiveCase
    version: str
    kills: Sequence[ExecutedKill] = ()
    outcome: dict[str, Any] | None = None  # None: not within CASE_S
    seconds: float = 0.0
    states: tuple[VersionState, ...] = ()


class CaseRunner:
    """Use it from the thread that started the system."""

    def __init__(self, system: LiveSystem, seed: int) -> None:
        self.system = system
        self.watch = RegistryWatcher(database(system.folder), system.settings.registry.model_name)
        self._scenarios: dict[str, LiveScenario] = {}
        self.users = ScoringUsers(system.settings, seed, lambda version: self._scenarios[version].reward)
        self.registry = Registry(system.settings)
        self.checkpoint = noisy(checkpoint_folder(system.settings.reflection.checkpoint), system.folder / "noisy", seed)
        self._operator = ThreadPoolExecutor(1, thread_name_prefix="operator")

    def close(self) -> None:
        self._operator.shutdown(cancel_futures=True)
        self.users.close()

    def warm_up(self) -> None:
        """Wait until the first champion answers."""
        self._until(lambda: any(answer.model for answer in self.users.answers), CASE_S)

    def run(self, case: LiveCase) -> CaseResult:
        """Blocks. A case that does not end is an anomaly. Raises CannotContinue only if the registry does not restart."""
        began = time.monotonic()
        self._until(lambda: self.system.serves(REGISTRY), CASE_S)
        before = self.watch.histories
        result = CaseResult(case, self._register(case.scenario, before))
        kills = KillSchedule(case.kills, before, self.system.kill)
        command: Future[None] | None = None
        while time.monotonic() - began < CASE_S:
            self._tick()
            kills.step(self.watch.histories)
            if command is None and case.scenario.rolls_back and self._answers_all(result.version):
                command = self._operator.submit(self._roll_back, result.version)
            if command and command.done():
                command.result()  # raises an unexpected error
            if kills.are_done and self._is_settled(before, result):
                result.outcome = outcome(before, self.watch.histories, result.version)
                break
        result.seconds = round(time.monotonic() - began, 1)
        result.states = self._states(result.version)
        result.kills = kills.done
        return result

    def drain(self) -> bool:
        """Ask no more questions; whether every question is answered and all processes serve in time."""
        try:
            self._until(lambda: self.users.open == 0 and all(map(self.system.serves, (WORKER, REGISTRY))), DRAIN_S, is_asking=False)
        except CannotContinue:
            return False
        deadline = time.monotonic() + 2  # a second answer to the same question comes late
        while time.monotonic() < deadline:
            self._tick(is_asking=False)
        return True

    def _until(self, holds: Callable[[], bool], within_s: float, *, is_asking: bool = True) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                raise CannotContinue(f"the system was not ready within {within_s:g} s; logs are in {self.system.folder / 'logs'}")
            self._tick(is_asking=is_asking)

    def _tick(self, *, is_asking: bool = True) -> None:
        self.system.step()
        self.watch.read()
        self.users.step(is_asking=is_asking)

    def _register(self, scenario: LiveScenario, before: VersionHistories) -> str:
        champion = self.registry.get(CHAMPION)
        tag = gate_tag(scenario.gate.about(inspect_checkpoint(self.checkpoint).digest, champion.digest))
        number = str(len(before.versions) + 1)
        self._scenarios[number] = scenario
        registered = self.registry.register(self.checkpoint, parent=CHAMPION, tags=tag)
        if registered.version != number:
            raise CannotContinue(f"version {registered.version} was registered, not {number}: another process registers versions")
        return number

    def _states(self, version: str) -> tuple[VersionState, ...]:
        registered = self.watch.histories.get(version)
        return states(registered) if registered else ()

    def _answers_all(self, version: str) -> bool:
        return any(_is_by(answer, version) for answer in self.users.answers[-20:])

    def _is_settled(self, before: VersionHistories, result: CaseResult) -> bool:
        """The version has its final state, aliases and events have followed, and the champion answers all users again."""
        histories = self.watch.histories
        version, champion = histories.get(result.version), histories.get(CHAMPION)
        if version is None or champion is None or version.state is not result.case.scenario.final_state or champion.state is not VersionState.CHAMPION:
            return False
        named = {alias.value: registered.version for registered in histories.versions for alias in registered.aliases}
        announced = {(changed.version, step.seq) for changed in (version, champion) for step in changed.transitions}
        since = max(step.at for changed in (version, champion) for step in changed.transitions)
        answered = [answer for answer in self.users.answers[-20:] if answer.at > since and _is_by(answer, CHAMPION)]
        return named == {"champion": CHAMPION} and announced <= self.users.events and bool(answered)

    def _roll_back(self, version: str) -> None:
        """Repeats the command until the histories show that it was executed, since a kill can interrupt it."""
        deadline = time.monotonic() + OPERATOR_S
        while time.monotonic() < deadline:
            champion = self.watch.histories.champion
            if champion is None or champion.version != version:
                return
            try:
                find_promoter(self.system.settings).execute(OperatorCommand("rollback", version, "ada", "users complain"))
            except RetouchError:
                time.sleep(RETRY_S)


def noisy(source: Path, folder: Path, seed: int) -> Path:
    """A copy of a checkpoint with noise on its weights."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, folder)
    rng = np.random.default_rng(seed)
    tensors = load_file(source / "model.safetensors")
    changed = {name: (tensor * (1 + NOISE * rng.standard_normal(tensor.shape))).astype(tensor.dtype) for name, tensor in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _is_by(answer: ObservedAnswer, version: str) -> bool:
    """Whether this version gave the answer as champion, outside any experiment."""
    assignment = answer.assignment
    is_champion = assignment is not None and assignment.experiment is None and assignment.arm is Arm.CHAMPION
    return is_champion and answer.model is not None and answer.model.version == version
