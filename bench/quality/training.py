"""The versions that RPO's arms and HYDRA need, trained by the trainer's own process on the lessons' outcomes.

RPO's RL starts from the version that SFT made, so SFT runs once for both arms. Under a LoRA, RL trains a new adapter over SFT's merged weights, where a run of
both stages would train the same adapter further.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.demo.run_files import latest_training
from bench.machine import cores
from bench.processes import BenchProcess, ProcessFailed
from bench.quality.arms import NeededVersion
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.run_report import RunReport, RunStatus
from schemas.serving import ServingReport
from schemas.topics import SERVING
from traffic.observer import Observer

TRAIN_TIMEOUT_S = 4 * 3600.0
SWAP_TIMEOUT_S = 600.0
NO_SFT, NO_RL = {"sft": {"epochs": 0.0}}, {"rl": {"steps": 0}}
#: What each run leaves out. All see the same data and seed.
STAGES: dict[NeededVersion, dict[str, Any]] = {
    NeededVersion.SFT: NO_RL,
    NeededVersion.RPO: NO_SFT,
    NeededVersion.RL: NO_SFT,
    NeededVersion.HYDRA: NO_SFT | NO_RL,
}
#: All data again, also the parent's.
FROM_CHAMPION: dict[str, Any] = {"start_from": "champion", "replay_share": 1.0}
FROM_FIRST: dict[str, Any] = {"start_from": "shipped"}


def train(settings: Settings, trained: NeededVersion, parent: str | None, check: Callable[[], None], on_stage: Callable[[str], None]) -> str:
    """Trains and registers one version, and returns its number. Blocks. Raises ProcessFailed if the trainer trains nothing.

    `parent`: the version that it starts from; None: the first one.
    """
    is_hydra = trained is NeededVersion.HYDRA
    if parent:
        serve(settings, parent)
    start = FROM_CHAMPION if parent else FROM_FIRST
    # The other processes are idle. With a second thread a step of HYDRA's encoder took 1.6 s instead of 2.65 s, and RL of the tiny model 89 s instead of 96 s.
    threads = max(settings.trainer.threads, cores()) if is_hydra else settings.trainer.threads
    changed = settings.changed(trainer={**start, **STAGES[trained], "threads": threads}, hydra={"train": is_hydra})
    with ExitStack() as closing:
        trainer = BenchProcess(f"trainer-{trained}", ["trainer", "--once"], changed, closing, check)
        trainer.join(TRAIN_TIMEOUT_S, lambda: on_stage(_stages(latest_training(settings.stack.dir))))
    report = latest_training(settings.stack.dir)
    if report is None or report.status is not RunStatus.TRAINED or not report.version:
        raise ProcessFailed(f"trainer: {report.reason if report else 'it wrote no report'}; log: {trainer.child.log}")
    if not is_hydra:
        return report.version
    if report.hydra is None or not report.hydra.version:
        raise ProcessFailed(f"HYDRA is not trained: {report.hydra.reason if report.hydra else 'the report does not say why'}; log: {trainer.child.log}")
    Registry(settings, settings.hydra.model_name).set_alias(Alias.CHAMPION, report.hydra.version)
    return report.hydra.version


def first_version(settings: Settings) -> str:
    """The number of the version that the stack's first start made of `reflection.checkpoint`."""
    return Registry(settings).versions()[0].version


def serve(settings: Settings, version: str) -> None:
    """Makes the version champion: the reflection worker loads it at its next look, or when it starts. No promoter runs beside the benchmark."""
    Registry(settings).set_alias(Alias.CHAMPION, version)


def await_serving(settings: Settings, version: str, check: Callable[[], None]) -> None:
    """Blocks until the reflection worker answers by this version. Raises ProcessFailed if it refuses the version or does not load it in time."""
    deadline = time.monotonic() + SWAP_TIMEOUT_S
    with Observer(settings, [SERVING], from_end=True, client_id="bench-serving") as reports:  # each worker reports every few seconds
        while time.monotonic() < deadline:
            check()
            for report in (seen.message for seen in reports.poll(0.5)):
                if not isinstance(report, ServingReport):
                    continue
                if report.champion.version == version:
                    return
                if reason := next((refused.reason for refused in report.refused if refused.model.version == version), None):
                    raise ProcessFailed(f"the reflection worker refuses version {version}: {reason}")
    raise ProcessFailed(f"the reflection worker does not serve version {version} after {SWAP_TIMEOUT_S:.0f} s")


def _stages(report: RunReport | None) -> str:
    return ", ".join(f"{name} {taken:.0f} s" for name, taken in (report.seconds if report else {}).items())
