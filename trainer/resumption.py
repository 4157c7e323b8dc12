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
from infra.registry import RegisteredVersion, Registry
from infra.settings import Settings
from trainer.report import ABANDONED, INTERRUPTED, RUNNING, Report, told_settings
from trainer.snapshot import code_version

log = logging.getLogger(__name__)

#: A run's folder for what it needs to go on; it is there until the run has ended.
STATE = "state"
CHECKPOINT = "checkpoint"
#: Whatever ended a run so often would end it again.
STARTS = 20
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
    """The report of the newest unfinished run that can go on, or of a new run. All other unfinished ones are closed."""
    chosen: Report | None = None
    for report in _left_behind(settings):
        reason = "a newer run goes on" if chosen else _why_not(report, settings, registry, champion, parent)
        if reason is None:
            chosen = report
        else:
            _abandon(report, registry, reason)
    if chosen is None:
        chosen = Report.begin(settings)
        chosen.data |= {"parent": parent.version, "champion": champion.version, "code_version": code_version()}
        (chosen.directory / STATE).mkdir()
    else:
        chosen.data |= {"status": RUNNING, "reason": None, "finished_at": None, "starts": chosen.data["starts"] + 1}
        log.info("run continues", extra={"run_id": chosen.run_id, "starts": chosen.data["starts"]})
    chosen.save()
    return chosen


def clear(report: Report) -> None:
    """Remove what an ended run needs no more: all but its report."""
    shutil.rmtree(report.directory / CHECKPOINT, ignore_errors=True)
    shutil.rmtree(report.directory / STATE, ignore_errors=True)


def _left_behind(settings: Settings) -> Iterator[Report]:
    """The unfinished runs, newest first. Ended ones whose folder was not yet cleared are."""
    for state in sorted((settings.stack.dir / "runs").glob(f"*/{STATE}"), reverse=True):
        try:
            report = Report.read(state.parent / "report.json")
        except (OSError, ValueError) as error:
            log.warning("run without a readable report", extra={"run": state.parent.name, "reason": type(error).__name__})
            shutil.rmtree(state, ignore_errors=True)
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
    if data.get("starts", STARTS) >= STARTS:
        return f"started {STARTS} times without an end"
    if changed := _changed(data["settings"], told_settings(settings)):
        return f"settings changed since: {', '.join(changed)}"
    if data.get("code_version") != code_version():
        return f"made by version {data.get('code_version')} of the code, this is {code_version()}"
    if data.get("champion") != champion.version:
        return f"the champion is version {champion.version} by now, it was {data.get('champion')}"
    if data.get("parent") != parent.version:
        return f"the parent would be version {parent.version} by now, it was {data.get('parent')}"
    return None


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
