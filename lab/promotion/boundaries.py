"""Kills a promoter with SIGKILL at every boundary between two writes, in every scenario. There are no users and no workers.

Each run has its own process, and a registry that is a copied file. The processes are forks of one process that has imported MLflow and opened no
connection: an import for each run would take most of the time.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.registry.client import Registry
from infra.registry.mlflow_store import mlflow
from infra.settings import Settings
from infra.urls import sqlite_file
from lab.promotion.invariants import anomalies, shape
from lab.promotion.scenarios import CANDIDATE, SCENARIOS, PromotionScenario
from lab.promotion.scripted_inputs import ScriptedInputs
from schemas.model_events import Alias
from schemas.promotion import Transition
from trainer.promotion.bootstrap import register_first
from trainer.promotion.promoter import Promoter
from trainer.promotion.version_history import VersionHistories

RUN_S, POLL_S = 60.0, 0.005


class KillingRegistry(Registry):
    """Kills its process at boundary `kill_at`. Each write has two boundaries: before and after it."""

    def __init__(self, settings: Settings, kill_at: int | None) -> None:
        super().__init__(settings)
        self._kill_at = kill_at
        self.writes = 0

    def record(self, version: str, transition: Transition) -> None:
        self._with_boundaries(lambda: super(KillingRegistry, self).record(version, transition))

    def set_alias(self, alias: Alias, version: str) -> None:
        self._with_boundaries(lambda: super(KillingRegistry, self).set_alias(alias, version))

    def remove_alias(self, alias: Alias) -> None:
        self._with_boundaries(lambda: super(KillingRegistry, self).remove_alias(alias))

    def _with_boundaries(self, write: Callable[[], None]) -> None:
        for boundary, act in enumerate((lambda: None, write)):
            act()
            if self._kill_at == 2 * self.writes + boundary:
                os.kill(os.getpid(), signal.SIGKILL)
        self.writes += 1


@dataclass(frozen=True)
class PromoterRun:
    """Result of one run. `anomalies` of the registry before and after it, and the `shape` of the registry that it leaves."""

    was_killed: bool
    writes: int = 0
    anomalies: list[str] = field(default_factory=list)
    shape: dict[str, Any] = field(default_factory=dict)


def import_mlflow() -> None:
    """Import what every run needs; call it once before the first."""
    mlflow().MlflowClient(tracking_uri="sqlite:///", registry_uri="sqlite:///")


def make_registry(settings: Settings) -> None:
    """Register the shipped checkpoint twice: version 1, the champion, and the candidate."""

    def make() -> Any:
        registry = Registry(settings)
        register_first(settings, registry)
        registry.register(checkpoint_folder(settings.reflection.checkpoint), parent="1")

    _in_a_fork(settings, make)


def run_promoter(settings: Settings, scenario: PromotionScenario, kill_at: int | None = None) -> PromoterRun:
    """One run, until nothing is left to do or a kill. Raises CannotContinue for any other end, or none within RUN_S."""
    result = _in_a_fork(settings, lambda: vars(_run_to_the_end(settings, scenario, kill_at)))
    if result is None and kill_at is None:
        raise CannotContinue(f"a promoter of scenario {scenario.name} was killed from outside")
    return PromoterRun(was_killed=True) if result is None else PromoterRun(**result)


def _in_a_fork(settings: Settings, act: Callable[[], Any]) -> Any:
    """The JSON of what `act` returns in a fork of this process; None if SIGKILL ended the fork."""
    output = settings.stack.dir / "result.json"
    output.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            output.write_text(json.dumps(act()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = _wait(child)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status != 0:
        raise CannotContinue(f"a promoter process ended with status {status}")
    return json.loads(output.read_text())


def _run_to_the_end(settings: Settings, scenario: PromotionScenario, kill_at: int | None) -> PromoterRun:
    registry, inputs = KillingRegistry(settings, kill_at), ScriptedInputs(gates={CANDIDATE: scenario.gate}, figures=scenario.figures)
    before = anomalies(VersionHistories(tuple(registry.versions())))
    promoter = Promoter(registry, scenario.promotion, feed=inputs, gates=inputs, announce=lambda event: None)
    while True:
        histories = VersionHistories(tuple(registry.versions()))
        inputs.now, inputs.versions = datetime.now(UTC), {version.version: version for version in histories.versions}
        inputs.refused = scenario.refused(histories)
        if promoter.reconcile():
            continue
        if command := scenario.command(VersionHistories(tuple(registry.versions()))):
            promoter.execute(command)
        else:
            break
    histories = VersionHistories(tuple(registry.versions()))
    return PromoterRun(False, registry.writes, before + anomalies(histories), shape(histories))


def _wait(child: int) -> int:
    deadline = time.monotonic() + RUN_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise CannotContinue(f"a promoter did not end within {RUN_S:.0f} s")
        time.sleep(POLL_S)


def database(settings: Settings) -> Path:
    return sqlite_file(settings.tracking_uri)


class KillCase(NamedTuple):
    """A promoter that is killed at these boundaries, run after run; the last run is not killed."""

    scenario: PromotionScenario
    kills: tuple[int, ...]


def run_boundaries(settings: Settings, folder: Path, kills: int, scenarios: Sequence[PromotionScenario] = SCENARIOS) -> dict[str, Any]:
    """Runs at least `kills` kills, spread over all scenarios, if they have any boundary. The registries lie in `folder`."""
    began = time.monotonic()
    import_mlflow()
    own = settings.changed(stack={"dir": folder}, registry={"tracking_uri": None}, kafka={"bootstrap_servers": None})
    make_registry(own)
    template = folder / "template.db"
    database(own).rename(template)
    anomalies: list[str] = []
    undisturbed = {scenario.name: _run(own, template, KillCase(scenario, ()), anomalies)[0] for scenario in scenarios}
    for scenario in scenarios:
        if (state := undisturbed[scenario.name].shape[CANDIDATE]["state"]) != scenario.final_state:
            anomalies.append(f"{scenario.name}: ends {state} without kills, not {scenario.final_state}")
    done = dict.fromkeys(undisturbed, 0)
    for case in _with_progress(cases(scenarios, {name: 2 * run.writes for name, run in undisturbed.items()}, kills), kills):
        run, killed = _run(own, template, case, anomalies)
        done[case.scenario.name] += killed
        if run.shape != undisturbed[case.scenario.name].shape:
            anomalies.append(f"{case.scenario.name}, killed at {case.kills}: ends differently than without kills")
        if sum(done.values()) >= kills:
            break
    return {
        "kills": {"promoter": sum(done.values())},
        "anomalies": anomalies,
        "scenarios": {name: {"kills": done[name], "writes": run.writes, "ends": run.shape[CANDIDATE]["state"]} for name, run in undisturbed.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def cases(scenarios: Sequence[PromotionScenario], boundaries: dict[str, int], kills: int) -> Iterator[KillCase]:
    """Each boundary once, or `kills` of them, evenly spread; beyond that, cases with two kills."""
    single = [KillCase(scenario, (at,)) for scenario in scenarios for at in range(boundaries[scenario.name])]
    if kills < len(single):
        yield from (single[number * len(single) // kills] for number in range(kills))
        return
    yield from single
    for again in itertools.count():
        yield from (KillCase(case.scenario, (*case.kills, again)) for case in single if case.kills[0] + again < boundaries[case.scenario.name])
        if again > max(boundaries.values(), default=0):
            return


def _run(settings: Settings, template: Path, case: KillCase, anomalies: list[str]) -> tuple[PromoterRun, int]:
    """The last run, and the number of kills."""
    shutil.copyfile(template, database(settings))
    killed = 0
    for kill_at in (*case.kills, None):
        run = run_promoter(settings, case.scenario, kill_at)
        anomalies += [f"{case.scenario.name}, killed at {case.kills}: {anomaly}" for anomaly in run.anomalies]
        if not run.was_killed:
            break
        killed += 1
    return run, killed


def _with_progress(cases: Iterable[KillCase], kills: int) -> Iterator[KillCase]:
    """Shows a progress bar on a terminal."""
    from rich.progress import track

    yield from track(cases, "killing", total=kills) if sys.stdout.isatty() else cases
