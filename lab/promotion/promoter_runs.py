"""Runs of a promoter, each in its own process over a real registry, with SIGKILL right before or after any of its writes.

Runs are forks of one process that has imported MLflow and opened no connection: an import for each run would take most of the time.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.registry.client import Registry
from infra.registry.mlflow_store import mlflow
from infra.settings import Settings
from lab.promotion.invariants import anomalies, shape
from lab.promotion.scenarios import CANDIDATE, PromotionScenario
from lab.promotion.scripted_inputs import ScriptedInputs
from schemas.model_events import Alias
from schemas.promotion import Transition
from trainer.promotion.bootstrap import register_shipped
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
        register_shipped(settings, registry)
        registry.register(checkpoint_folder(settings.reflection.checkpoint), parent="1")

    _in_a_fork(settings, make)


def run_promoter(settings: Settings, scenario: PromotionScenario, kill_at: int | None = None) -> PromoterRun:
    """One run, until nothing is left to do or a kill. Raises CannotContinue for any other end, or none within RUN_S."""
    result = _in_a_fork(settings, lambda: vars(_run(settings, scenario, kill_at)))
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


def _run(settings: Settings, scenario: PromotionScenario, kill_at: int | None) -> PromoterRun:
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
    return Path(settings.tracking_uri.removeprefix("sqlite:///"))
