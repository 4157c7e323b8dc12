"""Lives of a promoter, each a process of its own over a real registry, which may die by SIGKILL right before or after any of its writes.

Lives are forks of one process that has imported MLflow and opened nothing: an import for each would take most of the time.
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
from lab.promotion.scenarios import COMING, PromotionScenario
from lab.promotion.script import ScriptedInputs
from schemas.model_events import Alias
from schemas.promotion import Transition
from trainer.promotion.bootstrap import register_shipped
from trainer.promotion.promoter import Promoter
from trainer.promotion.version_history import VersionHistories

LIFE_S, POLL_S = 60.0, 0.005


class FragileRegistry(Registry):
    """Kills its process at the boundary `kill_at`: two for each write, one before and one after it."""

    def __init__(self, settings: Settings, kill_at: int | None) -> None:
        super().__init__(settings)
        self._kill_at = kill_at
        self.writes = 0

    def record(self, version: str, transition: Transition) -> None:
        self._between(lambda: super(FragileRegistry, self).record(version, transition))

    def set_alias(self, alias: Alias, version: str) -> None:
        self._between(lambda: super(FragileRegistry, self).set_alias(alias, version))

    def remove_alias(self, alias: Alias) -> None:
        self._between(lambda: super(FragileRegistry, self).remove_alias(alias))

    def _between(self, write: Callable[[], None]) -> None:
        for boundary, act in enumerate((lambda: None, write)):
            act()
            if self._kill_at == 2 * self.writes + boundary:
                os.kill(os.getpid(), signal.SIGKILL)
        self.writes += 1


@dataclass(frozen=True)
class PromoterRun:
    """How one life went. `found` is what was wrong with what the life before had left, `left` what this one did."""

    was_killed: bool
    writes: int = 0
    found: list[str] = field(default_factory=list)
    left: dict[str, Any] = field(default_factory=dict)


def prepare() -> None:
    """Import what every life needs; call it once before the first."""
    mlflow().MlflowClient(tracking_uri="sqlite:///", registry_uri="sqlite:///")


def make_registry(settings: Settings) -> None:
    """The shipped checkpoint twice: version 1, which is champion, and the one that comes."""

    def make() -> Any:
        registry = Registry(settings)
        register_shipped(settings, registry)
        registry.register(checkpoint_folder(settings.reflection.checkpoint), parent="1")

    _in_a_process(settings, make)


def live(settings: Settings, scenario: PromotionScenario, kill_at: int | None = None) -> PromoterRun:
    """One life, until nothing is left to do or it is killed. Raises CannotContinue for any other end, or none within LIFE_S."""
    told = _in_a_process(settings, lambda: vars(_lived(settings, scenario, kill_at)))
    if told is None and kill_at is None:
        raise CannotContinue(f"a promoter of scenario {scenario.name} was killed by somebody else")
    return PromoterRun(was_killed=True) if told is None else PromoterRun(**told)


def _in_a_process(settings: Settings, act: Callable[[], Any]) -> Any:
    """What `act` returns in a fork of this process, as JSON; None where it was killed by SIGKILL."""
    told = settings.stack.dir / "told.json"
    told.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            told.write_text(json.dumps(act()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = _wait(child)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status != 0:
        raise CannotContinue(f"a process of the laboratory ended with status {status}")
    return json.loads(told.read_text())


def _lived(settings: Settings, scenario: PromotionScenario, kill_at: int | None) -> PromoterRun:
    registry, script = FragileRegistry(settings, kill_at), ScriptedInputs(gates={COMING: scenario.gate}, told=scenario.told)
    found = anomalies(VersionHistories(tuple(registry.versions())))
    promoter = Promoter(registry, scenario.promotion, feed=script, gates=script, announce=lambda event: None)
    while True:
        histories = VersionHistories(tuple(registry.versions()))
        script.now, script.versions = datetime.now(UTC), {version.version: version for version in histories.versions}
        script.refused = scenario.refused(histories)
        if promoter.reconcile():
            continue
        if wish := scenario.wish(VersionHistories(tuple(registry.versions()))):
            promoter.execute(wish)
        else:
            break
    histories = VersionHistories(tuple(registry.versions()))
    return PromoterRun(False, registry.writes, found + anomalies(histories), shape(histories))


def _wait(child: int) -> int:
    deadline = time.monotonic() + LIFE_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise CannotContinue(f"a promoter did not come to an end within {LIFE_S:.0f} s")
        time.sleep(POLL_S)


def database(settings: Settings) -> Path:
    return Path(settings.tracking_uri.removeprefix("sqlite:///"))
