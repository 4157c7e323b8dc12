"""Resumption: which run a trainer works on, a new one or an unfinished one. Call with the lease held.

A run that was killed, stopped, or ended by an unavailable store is resumed under its own id if it would be the same run today: the same settings, code,
parent and champion. If not, it is closed as abandoned, with the reason, and a new run begins.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from infra.errors import CannotContinue, RetryLater
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.run_report import RunStatus
from trainer.data.snapshot import code_version
from trainer.folders import runs_dir
from trainer.run.report import STATE, RunReportFile, run_settings

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
#: New name of the state folder if the report is unreadable. A person may inspect it.
UNREADABLE = "state.unreadable"
#: After this many kills in a row without a newly stored step, the next process would be killed as well.
KILLS = 20
#: Settings that change when a run happens or what a kill costs, but not what is trained.
INDIFFERENT = frozenset(
    {"every_s", "new_outcomes", "drift_window", "drift_drop", "poll_s", "checkpoint_every", "processes_wait_s", "rl.vllm_url", "rl.vllm_memory_share"}
    | {"judge_engine", "generate_rows"}
)


def parent_of_run(settings: Settings, registry: Registry, champion: RegisteredVersion) -> RegisteredVersion:
    """The version that a run trains further, by `trainer.start_from`. Raises CannotContinue if every version has a parent."""
    if settings.trainer.start_from == "champion":
        return champion
    shipped = [version for version in registry.versions() if version.parent is None]
    if not shipped:
        raise CannotContinue(f"trainer.start_from is shipped, but every version of {registry.name} has a parent; set it to champion")
    return shipped[-1]


def resume_or_begin(settings: Settings, registry: Registry, champion: RegisteredVersion, parent: RegisteredVersion) -> RunReportFile:
    """The report of the newest unfinished run that can be resumed, or of a new run. Closes all other unfinished runs.

    Raises RetryLater and OSError if reports cannot be read or written now. No run is lost then.
    """
    chosen: RunReportFile | None = None
    for report in _unfinished(settings):
        reason = "a newer run is resumed" if chosen else _why_not_resumable(report, settings, registry, champion, parent)
        if reason is None:
            chosen = report
        else:
            _abandon(report, registry, reason)
    if chosen is None:
        return _begin(settings, champion, parent)
    data = chosen.data
    data.kills, data.stored = _kills(chosen), _stored_steps(chosen)
    data.status, data.reason, data.finished_at, data.starts = RunStatus.RUNNING, None, None, data.starts + 1
    log.info("run resumed", extra={"run_id": chosen.run_id, "starts": data.starts})
    chosen.save()
    return chosen


def clear(report: RunReportFile) -> None:
    """Removes everything of an ended run but its report."""
    shutil.rmtree(report.directory / CHECKPOINT, ignore_errors=True)
    shutil.rmtree(report.directory / STATE, ignore_errors=True)


def end_and_clear(report: RunReportFile, registry: Registry, tracked_status: Literal["FAILED", "KILLED"]) -> None:
    """Ends the MLflow run, if the registry answers, and removes everything else of the run but its report."""
    if report.data.tracked:
        with suppress(RetryLater):
            registry.tracking.end(report.data.tracked, tracked_status)
    clear(report)


def _begin(settings: Settings, champion: RegisteredVersion, parent: RegisteredVersion) -> RunReportFile:
    report = RunReportFile.begin(settings)
    report.data.parent, report.data.champion, report.data.code_version = parent.version, champion.version, code_version()
    try:
        (report.directory / STATE).mkdir()
        report.save()
    except OSError:
        shutil.rmtree(report.directory, ignore_errors=True)  # on a full disk every attempt would leave a folder
        raise
    return report


def _unfinished(settings: Settings) -> Iterator[RunReportFile]:
    """Unfinished runs, newest first. Clears ended runs whose folders were not cleared yet.

    Removes a state without a report, because that run never began. Raises RetryLater if a report cannot be read now.
    """
    for state in sorted(runs_dir(settings).glob(f"*/{STATE}"), reverse=True):
        try:
            report = RunReportFile.read(state.parent / "report.json")
        except FileNotFoundError:
            log.warning("run without a report", extra={"run": state.parent.name})
            shutil.rmtree(state, ignore_errors=True)
            continue
        except OSError as error:
            raise RetryLater(f"the report of the run {state.parent.name} cannot be read: {error.strerror or type(error).__name__}") from error
        except ValueError as error:
            log.warning("run without a readable report", extra={"run": state.parent.name, "reason": type(error).__name__, "set_aside": UNREADABLE})
            state.rename(state.with_name(UNREADABLE))
            continue
        if report.data.status.is_unfinished:
            yield report
        else:
            clear(report)


def _why_not_resumable(report: RunReportFile, settings: Settings, registry: Registry, champion: RegisteredVersion, parent: RegisteredVersion) -> str | None:
    data = report.data
    if registry.find_by_run(report.run_id) is not None:
        return None  # its version is registered and may serve already; only the end of the run is missing
    if _kills(report) >= KILLS:
        return f"killed {KILLS} times with nothing more stored in between"
    if changed := _changed_settings(data.settings, run_settings(settings)):
        return f"settings changed since: {', '.join(changed)}"
    if data.code_version != code_version():
        return f"made by version {data.code_version} of the code, this is {code_version()}"
    if data.champion != champion.version:
        return f"the champion is version {champion.version} by now, it was {data.champion}"
    if data.parent != parent.version:
        return f"the parent would be version {parent.version} by now, it was {data.parent}"
    return None


def _kills(report: RunReportFile) -> int:
    """Number of kills in a row, the last one included, without a stored step beyond those at the start of the process."""
    data = report.data
    if any(step > data.stored.get(stage, -1) for stage, step in _stored_steps(report).items()):
        return 0
    return data.kills + 1 if data.status is RunStatus.RUNNING else data.kills


def _stored_steps(report: RunReportFile) -> dict[str, int]:
    """Newest stored step by folder name of the stage."""
    steps: dict[str, int] = {}
    for path in (report.directory / STATE).glob("*/*"):
        number = path.name.removeprefix("checkpoint-")  # of SFT and of TRL
        if number.isdigit():
            steps[path.parent.name] = max(int(number), steps.get(path.parent.name, 0))
    return steps


def _abandon(report: RunReportFile, registry: Registry, reason: str) -> None:
    report.finish(RunStatus.ABANDONED, reason)
    log.info("run abandoned", extra={"run_id": report.run_id, "reason": reason})
    end_and_clear(report, registry, "KILLED")


def _changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    flat_before, flat_now = dict(_flat(before)), dict(_flat(now))
    names = sorted(flat_before.keys() | flat_now.keys())
    return [name for name in names if flat_before.get(name) != flat_now.get(name) and name not in INDIFFERENT]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
