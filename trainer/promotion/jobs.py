"""Gate jobs: versions are judged offline by a process of its own (`gate`), one at a time, bounded, while the promoter goes on looking."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from infra.process.child import Child
from infra.process.environment import environment
from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from schemas.gate import GateResult
from trainer.judge.gate_result import EXIT_TRY_LATER, gate_of, is_about

log = logging.getLogger(__name__)

#: How often a version is tried whose judge fails, and how long is waited after each: what made it fail may be over by then.
TRIES, PAUSES_S = 3, (10.0, 60.0)
#: A judge whom broker or registry keep waiting is no failure so often, LATER_S apart: then a version that blocks all others is one.
WAITS, LATER_S = 30, 60.0
STOP_S = 5.0
COULD_NOT = "could not be judged"
#: Arguments of the Python interpreter.
JUDGE = ("-m", "trainer.judge")


class GateJobs:
    """`promoter.Gates`. Start it from a thread that outlives it; `can_judge` says whether the topics that a judge reads are there."""

    def __init__(
        self,
        settings: Settings,
        can_judge: Callable[[], bool],
        command: tuple[str, ...] = JUDGE,
        pauses_s: tuple[float, ...] = PAUSES_S,
        later_s: float = LATER_S,
    ) -> None:
        self._settings = settings.model_copy(update={"ready_file": None})
        self._can_judge, self._command, self._pauses_s, self._later_s = can_judge, command, pauses_s, later_s
        self._pair: tuple[str, str, str] | None = None
        self._job: Child | None = None
        self._tries, self._waits, self._not_before, self._until = 0, 0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._turn_to(None)

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        """What the trainer left of judging these two, else a job's word; after TRIES failures that it is rejected, for nobody could judge it."""
        if version is None or champion is None:
            self._turn_to(None)
            return None
        if left := gate_of(version, champion):
            self._turn_to(None)
            return left
        self._turn_to((version.version, version.digest, champion.digest))
        if self._job is None:
            return self._begun(version.version)
        if self._job.is_running and time.monotonic() < self._until:
            return None
        return self._ended(version, champion, self._job)

    def _begun(self, version: str) -> GateResult | None:
        if self._tries >= TRIES:
            return GateResult(outcome="rejected", reason=f"{COULD_NOT} in {TRIES} tries; logs/gate.log says why")
        if time.monotonic() < self._not_before or not self._can_judge():
            return None
        logs = self._settings.stack.dir / "logs"
        command = [sys.executable, *self._command, "--version", version]
        self._job = Child("gate", command, logs / "gate.log", environment(self._settings), self._settings.stack.dir / "gate.json")
        try:
            self._job.start()
        except OSError as error:  # a full disk, say: the version is not to blame, and operators are served on
            log.warning("gate cannot begin", extra={"version": version, "reason": str(error)})
            self._job, self._not_before = None, time.monotonic() + self._pauses_s[0]
            return None
        self._until = time.monotonic() + self._settings.promotion.gate_timeout_s
        self._tries += 1
        log.info("gate begins", extra={"version": version, "tries": self._tries})
        return None

    def _ended(self, version: RegisteredVersion, champion: RegisteredVersion, job: Child) -> GateResult | None:
        result = result_of(job.output) if job.output and job.exit_code == 0 else None
        if result is None or not is_about(result.evidence, version, champion):
            how = "not within promotion.gate_timeout_s" if job.is_running else f"exit code {job.exit_code}, and no result about these two"
            log.warning("gate failed", extra={"version": version.version, "tries": self._tries, "reason": how})
            is_later = job.exit_code == EXIT_TRY_LATER
            job.stop(STOP_S)
            result = None
            pause_s = self._pauses_s[min(self._tries, len(self._pauses_s)) - 1]
            if is_later and self._waits < WAITS:
                self._waits, self._tries, pause_s = self._waits + 1, self._tries - 1, self._later_s
            self._job, self._not_before = None, time.monotonic() + pause_s
        return result

    def _turn_to(self, pair: tuple[str, str, str] | None) -> None:
        """From here on this is what is judged."""
        if pair != self._pair:
            if self._job is not None:
                self._job.stop(STOP_S)
            self._pair, self._job, self._tries, self._waits, self._not_before = pair, None, 0, 0, 0.0


def result_of(output: Path) -> GateResult | None:
    """What a judge printed, or None where that is no result."""
    try:
        return GateResult.model_validate_json(output.read_text())
    except (OSError, ValueError):
        return None
