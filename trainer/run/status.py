"""How far the newest run is, from its report on disk: cheap, and true also while it runs or after it was killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import CannotContinue
from infra.process.file_lock import is_locked
from infra.settings import Settings
from trainer.folders import runs_dir
from trainer.run.lease import lease_path
from trainer.run.report import INTERRUPTED, RUNNING, Report
from trainer.run.resumption import STATE

#: What the report calls running though nobody is at work.
KILLED = "killed"


def status(settings: Settings) -> dict[str, Any] | None:
    """The newest run's state as plain JSON values; None where there was none yet. Raises CannotContinue for a report that cannot be read."""
    runs = sorted((runs_dir(settings)).glob("*/report.json"))
    if not runs:
        return None
    data = _read(runs[-1])
    killed = data["status"] == RUNNING and not is_locked(lease_path(settings))
    if killed:  # or it ended just now: it says so before it gives the lease back
        data = _read(runs[-1])
        killed = data["status"] == RUNNING
    progress = data.get("progress") or {}
    return {
        "run_id": data["run_id"],
        "status": KILLED if killed else data["status"],
        "reason": data.get("reason"),
        "triggers": [trigger["kind"] for trigger in data.get("triggers", ()) if trigger["fired"]],
        "stage": data.get("stage"),
        **{name: progress.get(name) for name in ("step", "of", "k", "reward", "loss", "eta_s")},
        "seconds": data["seconds"],
        "started_at": data.get("started_at"),
        "finished_at": data.get("finished_at"),
        "version": data.get("version"),
        "lessons": data.get("counts", {}).get("lessons"),
        "report": str(runs[-1]),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return Report.read(path).data
    except (OSError, ValueError) as error:
        raise CannotContinue(f"{path}: not the report of a run ({type(error).__name__})") from None


def unfinished(settings: Settings) -> list[str]:
    """The ids of runs that were cut short and kept what they need to go on; none while a trainer is at work."""
    return [] if is_locked(lease_path(settings)) else sorted(_unfinished(runs_dir(settings)))


def _unfinished(runs: Path) -> Iterator[str]:
    for state in runs.glob(f"*/{STATE}"):
        try:
            report = Report.read(state.parent / "report.json")
        except (OSError, ValueError):
            continue
        if report.data["status"] in (RUNNING, INTERRUPTED):
            yield report.run_id
