"""The versions of the reflection model that RPO's arms need, trained by the trainer's own process on the lessons' outcomes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.demo.run_files import latest_training
from bench.processes import BenchProcess, ProcessFailed
from bench.quality.arms import Trained
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.run_report import RunReport, RunStatus

TRAIN_TIMEOUT_S = 4 * 3600.0
#: What each version leaves out. All start from the first version, and see the same data and seed.
STAGES: dict[Trained, dict[str, Any]] = {Trained.FULL: {}, Trained.SFT: {"rl": {"steps": 0}}, Trained.RL: {"sft": {"epochs": 0.0}}}


def train(settings: Settings, trained: Trained, check: Callable[[], None], on_stage: Callable[[str], None]) -> str:
    """Trains and registers one version, and returns its number. Blocks. Raises ProcessFailed if the trainer trains nothing."""
    changed = settings.changed(trainer={"start_from": "shipped", **STAGES[trained]})
    with ExitStack() as closing:
        trainer = BenchProcess(f"trainer-{trained}", ["trainer", "--once"], changed, closing, check)
        trainer.join(TRAIN_TIMEOUT_S, lambda: on_stage(_stages(latest_training(settings.stack.dir))))
    report = latest_training(settings.stack.dir)
    if report is None or report.status is not RunStatus.TRAINED or not report.version:
        raise ProcessFailed(f"trainer: {report.reason if report else 'it wrote no report'}; log: {trainer.child.log}")
    return report.version


def serve(settings: Settings, version: str) -> None:
    """Makes the version champion: the next reflection worker that starts serves it. No promoter runs beside the benchmark."""
    Registry(settings).set_alias(Alias.CHAMPION, version)


def _stages(report: RunReport | None) -> str:
    return ", ".join(f"{name} {taken:.0f} s" for name, taken in (report.seconds if report else {}).items())
