"""Progress: what each step of SFT and RL tells the report and, in batches, MLflow.

MLflow's store takes some 20 ms a request (2026-11-21), so values wait for each other: with one request in `FLUSH_S` it costs less than 1 % of
the time, however short a step is. A store that does not answer holds nothing up; its values wait.
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
from infra.registry.tracking import Point
from trainer.run.report import Report

if TYPE_CHECKING:
    from trainer.learn.rl_engine import RlStep
    from trainer.learn.sft import SftStep

log = logging.getLogger(__name__)

FLUSH_S = 5.0
#: What MLflow gets of an RL step.
RL_METRICS = ("reward", "kl", "entropy", "loss", "k", "shown", "signal_share", "usable_share", "left_out", "length", "seconds")
#: The rest of a stage is expected to go on like its last steps.
RECENT = 10


class Metrics(Protocol):
    """`infra.registry.tracking.Tracking`, as far as it is used here."""

    def log(self, tracked: str, points: Sequence[Point]) -> None: ...

    def steps(self, tracked: str, name: str) -> Sequence[int]: ...


class Progress:
    """Of one run. Steps of an earlier process come again when the run is continued; MLflow gets only those it lacks."""

    def __init__(self, report: Report, tracking: Metrics, tracked: str, flush_s: float = FLUSH_S) -> None:
        self._report, self._tracking, self._tracked, self._flush_s = report, tracking, tracked, flush_s
        self._logged = {kind: frozenset(tracking.steps(tracked, f"{kind}/loss")) for kind in ("sft", "rl")}
        self._waiting: list[Point] = []
        self._flushed = time.monotonic()
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def sft(self, step: SftStep) -> None:
        self._report.tell_step(step.step, step.of, self._eta_s(step.step, step.of, step.seconds), {"loss": step.loss})
        self._log("sft", step.step, {"loss": step.loss})

    def rl(self, step: RlStep, of: int) -> None:
        """`step` counts from 0, as in the curve; the report counts steps done."""
        if step.step == 0:
            self._report.data["reward_curve"] = []
            self._seconds.clear()
        figures = asdict(step)
        self._report.data["reward_curve"].append(figures)
        told = {name: figures[name] for name in ("stage", "k", "reward", "kl", "entropy", "loss", "signal_share")}
        self._report.tell_step(step.step + 1, of, self._eta_s(step.step + 1, of, step.seconds), told)
        self._log("rl", step.step, {name: figures[name] for name in RL_METRICS})

    def flush(self) -> None:
        """Send what waits; where the store does not answer it goes on waiting."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        try:
            self._tracking.log(self._tracked, self._waiting)
        except RetryLater as error:
            log.warning("metrics wait", extra={"points": len(self._waiting), "reason": str(error)})
        else:
            self._waiting.clear()

    def _log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if step not in self._logged[kind]:
            self._waiting += [Point(f"{kind}/{name}", float(value), step) for name, value in values.items()]
        if time.monotonic() - self._flushed >= self._flush_s:
            self.flush()

    def _eta_s(self, step: int, of: int, seconds: float) -> float | None:
        if seconds:
            self._seconds.append(seconds)
        return round(fmean(self._seconds) * (of - step), 1) if self._seconds else None
