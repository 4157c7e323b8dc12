"""Work of `retouch models`. Calls the running promoter, or reads and writes the registry itself if no promoter runs."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from cli import models_tables
from cli.registered_model import RegisteredModel
from infra.errors import CannotContinue, RetryLater
from infra.local import running_settings
from infra.process.command_output import FAILED, OK, printable, show, show_json, show_table
from infra.settings import Settings
from schemas.promotion import VersionState
from schemas.promotion_view import PromotionView, VersionTransition, VersionView
from trainer.promotion import discovery
from trainer.promotion.operator_commands import OperatorApi, OperatorCommand

#: Bound for the workers to serve the former champion after a rollback, and the pause between two polls.
SERVED_WITHIN_S, POLL_S = 10.0, 0.2
#: Bound for the transition of a command whose answer did not come, such as with a slow registry.
CONFIRMED_WITHIN_S = 30.0
#: Tags longer than this are shown by --json only.
MAX_TAG_CHARS = 100


class ServingProgress(NamedTuple):
    """How far the workers follow a new champion. The times are seconds since the command, None if it did not happen in time."""

    first_s: float | None  # the first worker serves it
    all_s: float | None  # every worker that reports serves it
    workers: int  # that report
    serving: int


def find_promoter(settings: Settings, model: RegisteredModel = RegisteredModel.REFLECTION) -> OperatorApi:
    find = discovery.hydra_promoter if model is RegisteredModel.HYDRA else discovery.find_promoter
    return find(running_settings(settings))


def list_versions(settings: Settings, as_json: bool, model: RegisteredModel = RegisteredModel.REFLECTION) -> None:
    view = find_promoter(settings, model).view()
    if as_json:
        show_json([_summary(view, version) for version in view.versions])
    elif view.versions:
        table = models_tables.versions(view)
        show_table(table.columns, table.rows)
    else:
        how = (
            "`retouch train --once` with hydra.train makes one"
            if model is RegisteredModel.HYDRA
            else "`retouch up` registers `reflection.checkpoint`, `retouch train --once` makes another"
        )
        show(f"no version is registered: {how}")


def show_version(settings: Settings, number: str, as_json: bool, model: RegisteredModel = RegisteredModel.REFLECTION) -> None:
    view = find_promoter(settings, model).view()
    version = _version(view, number)
    if as_json:
        quality = [cell.model_dump(mode="json") for cell in view.quality if cell.version == number]
        show_json({"name": view.name, **_json_values(version), "quality": quality})
        return
    values = _json_values(version)
    rows = [(name.replace("_", " "), str(values[name])) for name in ("state", "parent", "digest", "created_at", "dataset_digest") if values[name]]
    rows += [("aliases", ", ".join(version.aliases)), ("gate", models_tables.gate(version)), ("online reward", models_tables.online(view, number))]
    rows += [(f"trained on {topic}", _ranges(spans)) for topic, spans in version.offset_ranges.items()]
    rows += [(name, value) for name, value in sorted(version.tags.items()) if len(value) <= MAX_TAG_CHARS]
    show_table((view.name, f"version {number}"), [row for row in rows if row[1]])
    if version.metrics:
        show_table(("metric", "value"), [(name, models_tables.number(value)) for name, value in sorted(version.metrics.items())])
    steps = models_tables.transitions([(number, step) for step in version.transitions])
    if steps.rows:
        show_table(steps.columns, steps.rows)


def history(settings: Settings, number: str | None, as_json: bool, model: RegisteredModel = RegisteredModel.REFLECTION) -> None:
    view = find_promoter(settings, model).view()
    versions = [_version(view, number)] if number else view.versions
    steps = [(version.version, step) for version in versions for step in version.transitions]
    steps.sort(key=lambda pair: (pair[1].at, int(pair[0]), pair[1].seq))
    if as_json:
        show_json([{"version": version, **_json_values(step)} for version, step in steps])
    elif steps:
        table = models_tables.transitions(steps)
        rows = [(*row, models_tables.evidence(step)) for row, (_, step) in zip(table.rows, steps, strict=True)]
        show_table((*table.columns, "evidence"), rows)
    else:
        show(f"version {number} has no transitions yet" if number else "there are no transitions yet")


def promote(settings: Settings, number: str, operator: str | None, reason: str, as_json: bool, model: RegisteredModel = RegisteredModel.REFLECTION) -> None:
    promoter = find_promoter(settings, model)
    before = promoter.view()
    if not as_json and (champion := before.champion) != number:
        show(f"version {number} becomes champion" + (f" in place of version {champion}, which retires" if champion else ""))
    _show_transition(number, _executed(promoter, OperatorCommand("promote", number, _operator(operator), reason), before), as_json)


def reject(settings: Settings, number: str, operator: str | None, reason: str, as_json: bool, model: RegisteredModel = RegisteredModel.REFLECTION) -> None:
    promoter = find_promoter(settings, model)
    before = promoter.view()
    if not as_json:
        show(f"version {number} will be rejected; this is final")
    _show_transition(number, _executed(promoter, OperatorCommand("reject", number, _operator(operator), reason), before), as_json)


def rollback(
    settings: Settings,
    version: str | None,
    to: str | None,
    operator: str | None,
    reason: str,
    wait: bool,
    as_json: bool,
    model: RegisteredModel = RegisteredModel.REFLECTION,
) -> int:
    began = time.monotonic()
    promoter = find_promoter(settings, model)
    before = promoter.view()
    rejected = version or before.champion
    if not as_json and rejected:
        show(f"version {rejected} will be rejected, which is final, and {f'version {to}' if to else 'the last champion'} will serve again")
    transition = _executed(promoter, OperatorCommand("rollback", rejected or "", _operator(operator), reason, to), before)
    champion = promoter.view().champion
    served = wait_until_served(promoter, champion, began) if wait and before.workers else None
    if as_json:
        show_json({**_json_values(transition), "version": champion, "served": served._asdict() if served else None})
    else:
        _show_transition(champion, transition, as_json)
        show(_serving_text(champion, served, bool(before.workers)) if wait else "workers follow within seconds")
    return FAILED if served and served.first_s is None else OK


def diff(settings: Settings, a: str, b: str, samples: int, as_json: bool) -> None:
    from cli import diff_output
    from trainer.judge.difference import compare_versions

    comparison = compare_versions(running_settings(settings), a, b, samples)
    show_json(comparison) if as_json else diff_output.show_difference(comparison)


def _executed(promoter: OperatorApi, command: OperatorCommand, before: PromotionView) -> VersionTransition:
    """The transition that the command wrote. Without an answer in time the command may succeed nevertheless, so its transition is then looked for.

    `before`: the view before the command. Raises RetryLater if the transition does not appear within CONFIRMED_WITHIN_S.
    """
    try:
        return promoter.execute(command)
    except RetryLater as error:
        if transition := _appeared(promoter, command, before):
            return transition
        again = f"repeat `retouch models {command.action} --version {command.version}`, which changes nothing that this one has changed"
        raise RetryLater(f"{error}; no such transition appeared within {CONFIRMED_WITHIN_S:g} s, but it still may: {again}") from error


def _appeared(promoter: OperatorApi, command: OperatorCommand, before: PromotionView) -> VersionTransition | None:
    """The transition of a command whose answer did not come; None if there is none in time."""
    known = {(version.version, step.seq) for version in before.versions for step in version.transitions}
    after = VersionState.REJECTED if command.action == "reject" else VersionState.CHAMPION
    until = time.monotonic() + CONFIRMED_WITHIN_S
    while time.monotonic() < until:
        try:
            view = promoter.view()
        except RetryLater:
            view = before  # nothing new is known
        for version in view.versions:
            for step in version.transitions:
                if (version.version, step.seq) not in known and (step.actor, step.reason, step.after) == (command.operator, command.reason, after):
                    return VersionTransition.of(version.version, step)
        time.sleep(POLL_S)
    return None


def wait_until_served(promoter: OperatorApi, champion: str | None, began: float, within_s: float = SERVED_WITHIN_S) -> ServingProgress:
    """Wait until every worker that reports serves `champion`, at most `within_s` after `began`."""
    first_s, serving, reporting = None, 0, 0
    while True:
        try:
            view = promoter.view()
            alive = [report for report in view.workers if models_tables.age_s(view, report) < models_tables.SILENT_S]
            serving, reporting = sum(report.champion.version == champion for report in alive), len(alive)
        except RetryLater:
            pass  # the transition is made; only the poll of the workers failed
        took_s = round(time.monotonic() - began, 2)
        if serving and first_s is None:
            first_s = took_s
        done = serving == reporting and serving > 0
        if done or took_s >= within_s:
            return ServingProgress(first_s, took_s if done else None, reporting, serving)
        time.sleep(POLL_S)


def _serving_text(champion: str | None, served: ServingProgress | None, had_workers: bool) -> str:
    if served is None:
        return "no worker reports, so there was nothing to wait for; workers follow the registry within seconds" if not had_workers else ""
    if served.first_s is None:
        return f"no worker has reported version {champion} within {SERVED_WITHIN_S:.0f} s: look at `retouch status`"
    workers = f"{served.serving} of {served.workers} workers serve it"
    return f"version {champion} served again {served.first_s:.1f} s after the command; {workers}"


def _show_transition(number: str | None, transition: VersionTransition, as_json: bool) -> None:
    if as_json:
        show_json({**_json_values(transition), "version": number})
    else:
        show(f"version {number}: {transition.before} -> {transition.after}, by {printable(transition.actor)}")


def _json_values(part: BaseModel) -> dict[str, Any]:
    """JSON values; an infinite figure becomes null."""
    values: dict[str, Any] = json.loads(part.model_dump_json())
    return values


def _summary(view: PromotionView, version: VersionView) -> dict[str, Any]:
    values = {name: value for name, value in _json_values(version).items() if name != "transitions"}
    online = [cell.model_dump(mode="json") for cell in view.quality if cell.version == version.version and cell.domain is None]
    return {"name": view.name, **values, "gate": models_tables.gate(version), "online": online}


def _version(view: PromotionView, number: str) -> VersionView:
    versions = {version.version: version for version in view.versions}
    if number not in versions:
        raise CannotContinue(f"{view.name} has no version {number}; " + (f"there are {', '.join(versions)}" if versions else "none is registered"))
    return versions[number]


def _ranges(spans: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"partition {partition} from {start} to {end}" for partition, (start, end) in spans.items())


def _operator(name: str | None) -> str:
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
