"""Reports each step of SFT and RL to the run report and, in batches, to MLflow.

A request to MLflow's store takes some 20 ms (2026-11-21). With one request in `FLUSH_S` it takes less than 1 % of the time, however short a step is.
If the store does not answer, training continues and the values wait.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from infra.errors import RetryLater
from infra.registry.tracking import MetricValue
from schemas.run_report import RlStep, StageProgress
from trainer.run.report import RunReportFile

if TYPE_CHECKING:
    from trainer.learn.sft import SftStep

log = logging.getLogger(__name__)

FLUSH_S = 5.0
#: Metrics of an RL step in MLflow.
RL_METRICS = ("reward", "kl", "entropy", "loss", "k", "shown", "signal_share", "usable_share", "left_out", "length", "seconds")
#: Figures of an RL step in the report's progress.
RL_PROGRESS = ("stage", "k", "reward", "kl", "entropy", "loss", "signal_share")
#: Number of last steps that the remaining time is estimated from.
RECENT = 10


class MetricStore(Protocol):
    """The part of `infra.registry.tracking.Tracking` that is used here."""

    def log(self, tracked: str, points: Sequence[MetricValue]) -> None: ...

    def steps(self, tracked: str, name: str) -> Sequence[int]: ...


class StepReporter:
    """Reports the steps of one run. A resumed run repeats steps of an earlier process; MLflow gets only those it lacks."""

    def __init__(self, report: RunReportFile, tracking: MetricStore, tracked: str, flush_s: float = FLUSH_S) -> None:
        self._report, self._tracking, self._tracked, self._flush_s = report, tracking, tracked, flush_s
        self._logged = {kind: frozenset(tracking.steps(tracked, f"{kind}/loss")) for kind in ("sft", "rl")}
        self._waiting: list[MetricValue] = []
        self._flushed_at = time.monotonic()
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def sft(self, step: SftStep) -> None:
        self._report.record_step(StageProgress(step=step.step, of=step.of, eta_s=self._eta_s(step.step, step.of, step.seconds), loss=step.loss))
        self._log("sft", step.step, {"loss": step.loss})

    def rl(self, step: RlStep, total: int) -> None:
        """`step` counts from 0, as in the reward curve; the progress counts finished steps."""
        if step.step == 0:
            self._report.data.reward_curve = []
            self._seconds.clear()
        figures, finished = asdict(step), step.step + 1
        self._report.data.reward_curve.append(step)
        shown = {name: figures[name] for name in RL_PROGRESS}
        self._report.record_step(StageProgress(step=finished, of=total, eta_s=self._eta_s(finished, total, step.seconds), **shown))
        self._log("rl", step.step, {name: figures[name] for name in RL_METRICS})

    def flush(self) -> None:
        """Sends the waiting values. If the store does not answer, they stay."""
        self._flushed_at = time.monotonic()
        if not self._waiting:
            return
        try:
            self._tracking.log(self._tracked, self._waiting)
        except RetryLater as error:
            log.warning("metrics wait for the store", extra={"points": len(self._waiting), "reason": str(error)})
        else:
            self._waiting.clear()

    def _log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if step not in self._logged[kind]:
            self._waiting += [MetricValue(f"{kind}/{name}", float(value), step) for name, value in values.items()]
        if time.monotonic() - self._flushed_at >= self._flush_s:
            self.flush()

    def _eta_s(self, step: int, total: int, seconds: float) -> float | None:
        if seconds:
            self._seconds.append(seconds)
        return round(fmean(self._seconds) * (total - step), 1) if self._seconds else None
