"""The file of a run report: `stack.dir/runs/<run id>/report.json`. It is rewritten as a whole during the run.

The state of the newest run is read from it: cheap, and correct also during the run or after a kill.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from infra.errors import CannotContinue
from infra.process.file_lock import is_locked
from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from infra.telemetry.tracing import span
from schemas.run_report import RunReport, RunStatus, RunSummary, StageProgress
from trainer.data.snapshot import Snapshot, ranges_json
from trainer.folders import runs_dir
from trainer.learn import peak_memory
from trainer.learn.saved_state import write_json
from trainer.run.lease import lease_path

log = logging.getLogger(__name__)

#: Subfolder of a run with what it needs to be resumed. It exists until the run ends.
STATE = "state"
#: Status of a run that is running by its report while no trainer holds the lease.
KILLED = "killed"
#: Minimum time between two writes of the file for finished steps.
WRITE_EVERY_S = 1.0


@dataclass
class RunReportFile:
    """A `RunReport` and its file. `save` writes changes of `data`."""

    path: Path
    data: RunReport
    _saved_at: float = 0.0
    _entered: tuple[str, float, float] = ("", 0.0, 0.0)  # the stage, when it was entered, and its seconds until then

    @classmethod
    def begin(cls, settings: Settings) -> Self:
        """The report of a new run, with its folder. Run ids sort by time."""
        started_at = datetime.now(UTC)
        run_id = f"{started_at:%Y%m%dT%H%M%S%f}-{os.getpid()}"
        directory = runs_dir(settings) / run_id
        directory.mkdir(parents=True)
        data = RunReport(
            run_id=run_id,
            status=RunStatus.RUNNING,
            reason=None,
            stage=None,
            progress=None,
            started_at=started_at,
            finished_at=None,
            starts=1,
            kills=0,
            stored={},
            seed=settings.trainer.seed,
            settings=run_settings(settings),
            start_from=settings.trainer.start_from,
            seconds={},
            peak_rss_bytes={},
            peak_gpu_bytes={},
        )
        return cls(directory / "report.json", data)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError, and ValueError for a file that is no run report."""
        return cls(path, RunReport.model_validate_json(path.read_bytes()))

    @property
    def run_id(self) -> str:
        return self.data.run_id

    @property
    def directory(self) -> Path:
        return self.path.parent

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures time and peak memory of a stage, in a span. Several visits add up.

        Raises OSError if the start of the stage cannot be written. The next write includes its end.
        """
        self._entered = (name, time.monotonic(), self.data.seconds.get(name, 0.0))
        peak_memory.reset()
        self.data.stage, self.data.progress = name, None
        self.save()
        log.info("stage begins", extra={"run_id": self.run_id, "stage": name})
        try:
            with span(f"train.{name}", attributes={"retouch.run_id": self.run_id}):
                yield
        finally:
            with suppress(OSError):  # a full disk must not hide the error that ended the stage
                self._measure()
                self.save()

    def record_step(self, progress: StageProgress) -> None:
        """Takes microseconds, and once a second the time to write the file (12 ms with 500 steps, 2026-11-21)."""
        self.data.progress = progress
        if time.monotonic() - self._saved_at >= WRITE_EVERY_S or progress.step == progress.of:
            self._measure()
            self.save()

    def record_snapshot(self, snapshot: Snapshot, code_version: str) -> None:
        data = self.data
        data.counts, data.judged_share = dict(snapshot.counts), snapshot.judged_share
        data.offset_ranges = {topic: {number: (ends[0], ends[1]) for number, ends in parts.items()} for topic, parts in ranges_json(snapshot.ranges).items()}
        data.dataset_digest, data.code_version = snapshot.digest, code_version

    def record_version(self, version: RegisteredVersion) -> None:
        self.data.name, self.data.version = version.name, version.version
        self.data.digest, self.data.parent = version.digest, version.parent

    def finish(self, status: RunStatus, reason: str) -> None:
        data = self.data
        data.status, data.reason, data.stage, data.progress, data.finished_at = status, reason, None, None, datetime.now(UTC)
        self.save()

    def save(self) -> None:
        """Replaces the file, synced to disk: a run is resumed by its report."""
        write_json(self.path, self.data.to_json(), indent=1)
        self._saved_at = time.monotonic()

    def _measure(self) -> None:
        name, entered_at, seconds_before = self._entered
        self.data.seconds[name] = round(seconds_before + time.monotonic() - entered_at, 3)
        for peaks, peak in ((self.data.peak_rss_bytes, peak_memory.peak_rss_bytes()), (self.data.peak_gpu_bytes, peak_memory.peak_gpu_bytes())):
            if peak is not None:
                peaks[name] = max(peak, peaks.get(name, 0))


def run_settings(settings: Settings) -> dict[str, Any]:
    """The settings that the result of a run depends on, as JSON values."""
    reflection = settings.reflection
    others = {"k": reflection.k, "max_new_tokens": reflection.max_new_tokens, "max_model_len": reflection.max_model_len}
    trainer: dict[str, Any] = settings.trainer.model_dump(mode="json")
    entries = {"domains": digest, "answer_tokens": settings.base.max_new_tokens} if (digest := settings.entries.digest) else {}
    return trainer | others | {"prompt_style": str(reflection.prompt_style), "model_name": settings.registry.model_name} | entries


def status(settings: Settings) -> RunSummary | None:
    """The summary of the newest run; None without any run. Raises CannotContinue if the report cannot be read."""
    paths = sorted(runs_dir(settings).glob("*/report.json"))
    if not paths:
        return None
    report = _read(paths[-1])
    is_killed = report.status is RunStatus.RUNNING and not is_locked(lease_path(settings))
    if is_killed:  # or it has just ended: a trainer writes its report before it releases the lease
        report = _read(paths[-1])
        is_killed = report.status is RunStatus.RUNNING
    return RunSummary(
        run_id=report.run_id,
        status=KILLED if is_killed else report.status,
        reason=report.reason,
        triggers=[trigger.kind for trigger in report.triggers or () if trigger.fired],
        stage=report.stage,
        **{name: getattr(report.progress, name, None) for name in ("step", "of", "k", "reward", "loss", "eta_s")},
        seconds=report.seconds,
        started_at=report.started_at,
        finished_at=report.finished_at,
        version=report.version,
        lessons=report.counts.get("lessons"),
        report=str(paths[-1]),
    )


def unfinished(settings: Settings) -> list[str]:
    """Ids of the runs that can be resumed. None while a trainer works."""
    if is_locked(lease_path(settings)):
        return []
    run_ids = []
    for state in runs_dir(settings).glob(f"*/{STATE}"):
        with suppress(OSError, ValueError):
            report = RunReportFile.read(state.parent / "report.json")
            if report.data.status.is_unfinished:
                run_ids.append(report.run_id)
    return sorted(run_ids)


def _read(path: Path) -> RunReport:
    try:
        return RunReportFile.read(path).data
    except (OSError, ValueError) as error:
        raise CannotContinue(f"{path}: not the report of a run ({type(error).__name__})") from None
