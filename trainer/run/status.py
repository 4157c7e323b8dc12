"""State of the newest run, from its report on disk. Cheap, and correct also during the run or after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from infra.errors import CannotContinue
from infra.process.file_lock import is_locked
from infra.settings import Settings
from schemas.run_report import RunReport, RunStatus, RunSummary
from trainer.folders import runs_dir
from trainer.run.lease import lease_path
from trainer.run.report import RunReportFile
from trainer.run.resumption import STATE

#: Status of a run that is running by its report while no trainer holds the lease.
KILLED = "killed"


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
    return [] if is_locked(lease_path(settings)) else sorted(_unfinished(runs_dir(settings)))


def _read(path: Path) -> RunReport:
    try:
        return RunReportFile.read(path).data
    except (OSError, ValueError) as error:
        raise CannotContinue(f"{path}: not the report of a run ({type(error).__name__})") from None


def _unfinished(runs: Path) -> Iterator[str]:
    for state in runs.glob(f"*/{STATE}"):
        try:
            report = RunReportFile.read(state.parent / "report.json")
        except (OSError, ValueError):
            continue
        if report.data.status.is_unfinished:
            yield report.run_id
