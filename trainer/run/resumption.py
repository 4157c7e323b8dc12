"""Resumption: which run a trainer works on, a new one or one that was cut short.

A run that was killed, stopped or kept from a store goes on, under its own id and with what it has, if it would be the same run today: the same
settings, code, parent and champion. Else it is closed as abandoned, with the reason, and a new one begins. Call with the lease held.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from infra.errors import CannotContinue, RetryLater
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from trainer.data.snapshot import code_version
from trainer.folders import runs_dir
from trainer.run.report import ABANDONED, INTERRUPTED, RUNNING, Report, told_settings

log = logging.getLogger(__name__)

#: A run's folder for what it needs to go on; it is there until the run has ended.
STATE = "state"
CHECKPOINT = "checkpoint"
#: Where a state goes whose report cannot be read, for a person to look at.
UNREADABLE = "state.unreadable"
#: Whatever killed a run so often, with nothing more stored in between, would kill it again.
KILLS = 20
#: Settings that change when a run happens or what a kill costs, not what is trained.
INDIFFERENT = frozenset(
    {"every_s", "new_outcomes", "drift_window", "drift_drop", "poll_s", "checkpoint_every", "processes_wait_s", "rl.vllm_url", "rl.vllm_memory_share"}
)


def parent_of_run(settings: Settings, registry: Registry, champion: RegisteredVersion) -> RegisteredVersion:
    """The version that a run trains further, by `trainer.start_from`. Raises CannotContinue where every version has a parent."""
    if settings.trainer.start_from == "champion":
        return champion
    shipped = [version for version in registry.versions() if version.parent is None]
    if not shipped:
        raise CannotContinue(f"trainer.start_from is shipped, but every version of {registry.name} has a parent; set it to champion")
    return shipped[-1]


def take_up(settings: Settings, registry: Registry, champion: RegisteredVersion, parent: RegisteredVersion) -> Report:
    """The report of the newest unfinished run that can go on, or of a new run. All other unfinished ones are closed.

    Raises RetryLater and OSError where reports cannot be read or written now; no run is lost by that.
    """
    chosen: Report | None = None
    for report in _left_behind(settings):
        reason = "a newer run goes on" if chosen else _why_not(report, settings, registry, champion, parent)
        if reason is None:
            chosen = report
        else:
            _abandon(report, registry, reason)
    if chosen is None:
        return _new(settings, champion, parent)
    told = {"status": RUNNING, "reason": None, "finished_at": None, "starts": chosen.data.get("starts", 0) + 1}
    chosen.data |= told | {"kills": _kills(chosen), "stored": _stored(chosen)}
    log.info("run continues", extra={"run_id": chosen.run_id, "starts": chosen.data["starts"]})
    chosen.save()
    return chosen


def clear(report: Report) -> None:
    """Remove what an ended run needs no more: all but its report."""
    shutil.rmtree(report.directory / CHECKPOINT, ignore_errors=True)
    shutil.rmtree(report.directory / STATE, ignore_errors=True)


def _new(settings: Settings, champion: RegisteredVersion, parent: RegisteredVersion) -> Report:
    report = Report.begin(settings)
    report.data |= {"parent": parent.version, "champion": champion.version, "code_version": code_version()}
    try:
        (report.directory / STATE).mkdir()
        report.save()
    except OSError:
        shutil.rmtree(report.directory, ignore_errors=True)  # a full disk is tried again and again
        raise
    return report


def _left_behind(settings: Settings) -> Iterator[Report]:
    """The unfinished runs, newest first. Ended ones whose folder was not yet cleared are.

    Only where a report is absent, so that nobody ever began, the state goes. Raises RetryLater where one cannot be read now.
    """
    for state in sorted((runs_dir(settings)).glob(f"*/{STATE}"), reverse=True):
        try:
            report = Report.read(state.parent / "report.json")
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
        if report.data["status"] in (RUNNING, INTERRUPTED):
            yield report
        else:
            clear(report)


def _why_not(report: Report, settings: Settings, registry: Registry, champion: RegisteredVersion, parent: RegisteredVersion) -> str | None:
    """Why a run cannot go on, or None."""
    data = report.data
    if registry.of_run(report.run_id) is not None:
        return None  # its version is registered, and may serve already; only its end is missing
    if _kills(report) >= KILLS:
        return f"killed {KILLS} times with nothing more stored in between"
    if changed := _changed(data["settings"], told_settings(settings)):
        return f"settings changed since: {', '.join(changed)}"
    if data.get("code_version") != code_version():
        return f"made by version {data.get('code_version')} of the code, this is {code_version()}"
    if data.get("champion") != champion.version:
        return f"the champion is version {champion.version} by now, it was {data.get('champion')}"
    if data.get("parent") != parent.version:
        return f"the parent would be version {parent.version} by now, it was {data.get('parent')}"
    return None


def _kills(report: Report) -> int:
    """How often in a row, the last time included, it was killed with nothing stored beyond what its start had found."""
    before: Mapping[str, int] = report.data.get("stored", {})
    if any(step > before.get(stage, -1) for stage, step in _stored(report).items()):
        return 0
    kills: int = report.data.get("kills", 0)
    return kills + 1 if report.data["status"] == RUNNING else kills


def _stored(report: Report) -> dict[str, int]:
    """The newest stored step of each stage, by the name of its folder."""
    found: dict[str, int] = {}
    for path in (report.directory / STATE).glob("*/*"):
        number = path.name.removeprefix("checkpoint-")  # SFT's, and TRL's
        if number.isdigit():
            found[path.parent.name] = max(int(number), found.get(path.parent.name, 0))
    return found


def _abandon(report: Report, registry: Registry, reason: str) -> None:
    report.finish(ABANDONED, reason)
    log.info("run abandoned", extra={"run_id": report.run_id, "reason": reason})
    if tracked := report.data.get("tracked"):
        with suppress(RetryLater):
            registry.tracking.end(tracked, "KILLED")
    clear(report)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the settings that differ, indifferent ones aside."""
    flat_before, flat_now = dict(_flat(before)), dict(_flat(now))
    names = sorted(flat_before.keys() | flat_now.keys())
    return [name for name in names if flat_before.get(name) != flat_now.get(name) and name not in INDIFFERENT]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
