"""Gate jobs: a separate process judges one version at a time offline, within a time limit, while the promoter keeps running."""

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
from trainer.judge.gate import EXIT_TRY_LATER, gate_of, is_about

log = logging.getLogger(__name__)

#: Maximum number of jobs for one version that fail, and the pauses between them.
TRIES, PAUSES_S = 3, (10.0, 60.0)
#: A job that ends because broker or registry are away is repeated up to WAITS times, LATER_S apart, before it counts as failed.
WAITS, LATER_S = 30, 60.0
STOP_S = 5.0
NOT_JUDGED = "could not be judged"
#: Arguments of the Python interpreter.
JUDGE = ("-m", "trainer.judge")


class GateJobs:
    """A `promoter.GateJudge`. Start it from a thread that outlives it. `can_judge` returns whether the topics that a job reads are available."""

    def __init__(
        self,
        settings: Settings,
        can_judge: Callable[[], bool],
        command: tuple[str, ...] = JUDGE,
        pauses_s: tuple[float, ...] = PAUSES_S,
        later_s: float = LATER_S,
    ) -> None:
        self._settings = settings.changed(ready_file=None, telemetry={"http_port": None, "http_host": "127.0.0.1"})  # both are the promoter's
        self._can_judge, self._command, self._pauses_s, self._later_s = can_judge, command, pauses_s, later_s
        self._pair: tuple[str, str, str] | None = None
        self._job: Child | None = None
        self._tries, self._waits, self._not_before, self._until = 0, 0, 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._switch_to(None)

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        """The result that the trainer stored, else the result of a job; rejected after TRIES failed jobs."""
        if version is None or champion is None:
            self._switch_to(None)
            return None
        if stored := gate_of(version, champion):
            self._switch_to(None)
            return stored
        self._switch_to((version.version, version.digest, champion.digest))
        if self._job is None:
            return self._start(version.version)
        if self._job.is_running and time.monotonic() < self._until:
            return None
        return self._finish(version, champion, self._job)

    def _start(self, version: str) -> GateResult | None:
        if self._tries >= TRIES:
            return GateResult(outcome="rejected", reason=f"{NOT_JUDGED} in {TRIES} tries; logs/gate.log says why")
        if time.monotonic() < self._not_before or not self._can_judge():
            return None
        logs = self._settings.stack.dir / "logs"
        command = [sys.executable, *self._command, "--version", version]
        self._job = Child("gate", command, logs / "gate.log", environment(self._settings), self._settings.stack.dir / "gate.json")
        try:
            self._job.start()
        except OSError as error:  # such as a full disk: not the version's fault, and operator commands must not wait
            log.warning("gate cannot start", extra={"version": version, "reason": str(error)})
            self._job, self._not_before = None, time.monotonic() + self._pauses_s[0]
            return None
        self._until = time.monotonic() + self._settings.promotion.gate_timeout_s
        self._tries += 1
        log.info("gate starts", extra={"version": version, "tries": self._tries})
        return None

    def _finish(self, version: RegisteredVersion, champion: RegisteredVersion, job: Child) -> GateResult | None:
        result = result_of(job.output) if job.output and job.exit_code == 0 else None
        if result is None or not is_about(result.evidence, version, champion):
            how = "not within promotion.gate_timeout_s" if job.is_running else f"exit code {job.exit_code}, without a result about these two versions"
            log.warning("gate failed", extra={"version": version.version, "tries": self._tries, "reason": how})
            is_later = job.exit_code == EXIT_TRY_LATER
            job.stop(STOP_S)
            result = None
            pause_s = self._pauses_s[min(self._tries, len(self._pauses_s)) - 1]
            if is_later and self._waits < WAITS:
                self._waits, self._tries, pause_s = self._waits + 1, self._tries - 1, self._later_s
            self._job, self._not_before = None, time.monotonic() + pause_s
        return result

    def _switch_to(self, pair: tuple[str, str, str] | None) -> None:
        """Judge this pair from now on; stops the job of another pair."""
        if pair != self._pair:
            if self._job is not None:
                self._job.stop(STOP_S)
            self._pair, self._job, self._tries, self._waits, self._not_before = pair, None, 0, 0, 0.0


def result_of(output: Path) -> GateResult | None:
    """The result that a job printed, or None if it printed none."""
    try:
        return GateResult.model_validate_json(output.read_text())
    except (OSError, ValueError):
        return None
