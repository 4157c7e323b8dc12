"""`retouch models list`, `show`, `history`, `promote`, `reject`, `rollback`, `diff`: asked of the promoter that runs, or of the registry where none does."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cli import models_tables
from infra.errors import CannotContinue, RetryLater
from infra.process.command_output import FAILED, OK, printable, show, show_json, show_table

if TYPE_CHECKING:
    from infra.settings import Settings
    from schemas.promotion_view import PromotionView, VersionTransition, VersionView
    from trainer.promotion.operator_api import OperatorApi

#: Within which a rollback must have reached the workers, and how often they are asked.
SERVED_WITHIN_S, ASK_EVERY_S = 10.0, 0.2
#: Longer tags are for --json.
SHORT = 100


def find_promoter(settings: Settings) -> OperatorApi:
    from infra.local import running_settings
    from trainer.promotion import discovery

    return discovery.find_promoter(running_settings(settings))


def list_versions(settings: Settings, as_json: bool) -> int:
    view = find_promoter(settings).view()
    if as_json:
        show_json([_summary(view, version) for version in view.versions])
    elif view.versions:
        found = models_tables.versions(view)
        show_table(found.columns, found.rows)
    else:
        show("no version is registered: `retouch up` registers the shipped one, `retouch train --once` makes another")
    return OK


def show_version(settings: Settings, number: str, as_json: bool) -> int:
    view = find_promoter(settings).view()
    version = _version(view, number)
    if as_json:
        quality = [cell.model_dump(mode="json") for cell in view.quality if cell.version == number]
        show_json({"name": view.name, **_plain(version), "quality": quality})
        return OK
    shown = _plain(version)
    rows = [(name.replace("_", " "), str(shown[name])) for name in ("state", "parent", "digest", "created_at", "dataset_digest") if shown[name]]
    rows += [("aliases", ", ".join(version.aliases)), ("gate", models_tables.gate(version)), ("online reward", models_tables.online(view, number))]
    rows += [(f"trained on {topic}", _ranges(spans)) for topic, spans in version.offset_ranges.items()]
    rows += [(name, value) for name, value in sorted(version.tags.items()) if len(value) <= SHORT]
    show_table((view.name, f"version {number}"), [row for row in rows if row[1]])
    if version.metrics:
        show_table(("metric", "value"), [(name, models_tables.number(value)) for name, value in sorted(version.metrics.items())])
    steps = models_tables.transitions([(number, step) for step in version.transitions])
    if steps.rows:
        show_table(steps.columns, steps.rows)
    return OK


def history(settings: Settings, number: str | None, as_json: bool) -> int:
    view = find_promoter(settings).view()
    versions = [_version(view, number)] if number else view.versions
    steps = [(version.version, step) for version in versions for step in version.transitions]
    steps.sort(key=lambda pair: (pair[1].at, int(pair[0]), pair[1].seq))
    if as_json:
        show_json([{"version": version, **_plain(step)} for version, step in steps])
    elif steps:
        rows = models_tables.transitions(steps)
        show_table((*rows.columns, "evidence"), [(*row, models_tables.evidence(step)) for row, (_, step) in zip(rows.rows, steps, strict=True)])
    else:
        show(f"nothing has happened to version {number} yet" if number else "nothing has happened yet")
    return OK


def promote(settings: Settings, number: str, operator: str | None, reason: str, as_json: bool) -> int:
    at = find_promoter(settings)
    if not as_json and (champion := at.view().champion) != number:
        show(f"version {number} is to answer everybody" + (f" in place of version {champion}, which retires" if champion else ""))
    return _told(number, at.promote(number, _operator(operator), reason), as_json)


def reject(settings: Settings, number: str, operator: str | None, reason: str, as_json: bool) -> int:
    if not as_json:
        show(f"version {number} is to be given up for good")
    return _told(number, find_promoter(settings).reject(number, _operator(operator), reason), as_json)


def rollback(settings: Settings, version: str | None, to: str | None, operator: str | None, reason: str, wait: bool, as_json: bool) -> int:
    begun = time.monotonic()
    at = find_promoter(settings)
    before = at.view()
    given_up = version or before.champion
    if not as_json and given_up:
        show(f"version {given_up} is to be given up for good, and {f'version {to}' if to else 'the last champion'} to answer everybody again")
    try:
        made = at.rollback(to, given_up, _operator(operator), reason)
    except RetryLater as error:
        again = f"`retouch models rollback --version {given_up}` gives up that one and no other, however often it is asked"
        raise RetryLater(f"{error}; it may have been done all the same: {again}") from error
    champion = at.view().champion
    waited = wait_until_served(at, champion, begun) if wait and before.workers else None
    if as_json:
        show_json({**_plain(made), "version": champion, "served": waited})
    else:
        _told(champion, made, as_json)
        show(_in_words(champion, waited, bool(before.workers)) if wait else "workers follow within seconds")
    return FAILED if waited and waited["first_s"] is None else OK


def diff(settings: Settings, one: str, other: str, samples: int, as_json: bool) -> int:
    from cli import diff_output
    from infra.local import running_settings
    from trainer.judge.difference import compare_versions

    found = compare_versions(running_settings(settings), one, other, samples)
    if as_json:
        show_json(found)
    else:
        diff_output.show_difference(found)
    return OK


def wait_until_served(at: OperatorApi, champion: str | None, begun: float, within_s: float = SERVED_WITHIN_S) -> dict[str, Any]:
    """Until every worker that still reports serves `champion`, bounded. `first_s` and `all_s` are since `begun`, None where that did not come."""
    first_s, serving, known = None, 0, 0
    while True:
        try:
            view = at.view()
            alive = [report for report in view.workers if models_tables.age_s(view, report) < models_tables.SILENT_S]
            serving, known = sum(report.champion.version == champion for report in alive), len(alive)
        except RetryLater:
            pass  # the transition is made: whether workers follow is asked again
        took_s = round(time.monotonic() - begun, 2)
        if serving and first_s is None:
            first_s = took_s
        done = serving == known and serving > 0
        if done or took_s >= within_s:
            return {"first_s": first_s, "all_s": took_s if done else None, "workers": known, "serving": serving}
        time.sleep(ASK_EVERY_S)


def _in_words(champion: str | None, waited: dict[str, Any] | None, had_workers: bool) -> str:
    if waited is None:
        return "no worker reports, so none could be waited for; workers follow the registry within seconds" if not had_workers else ""
    if waited["first_s"] is None:
        return f"no worker has reported version {champion} within {SERVED_WITHIN_S:.0f} s: look at `retouch status`"
    by = f"{waited['serving']} of {waited['workers']} workers serve it"
    return f"version {champion} served again {waited['first_s']:.1f} s after the command; {by}"


def _told(number: str | None, made: VersionTransition, as_json: bool) -> int:
    if as_json:
        show_json({**_plain(made), "version": number})
    else:
        show(f"version {number}: {made.before} -> {made.after}, by {printable(made.actor)}")
    return OK


def _plain(part: BaseModel) -> dict[str, Any]:
    """As JSON values, in which an infinite figure is null."""
    values: dict[str, Any] = json.loads(part.model_dump_json())
    return values


def _summary(view: PromotionView, version: VersionView) -> dict[str, Any]:
    kept = {name: value for name, value in _plain(version).items() if name != "transitions"}
    online = [cell.model_dump(mode="json") for cell in view.quality if cell.version == version.version and cell.domain is None]
    return {"name": view.name, **kept, "gate": models_tables.gate(version), "online": online}


def _version(view: PromotionView, number: str) -> VersionView:
    known = {version.version: version for version in view.versions}
    if number not in known:
        raise CannotContinue(f"{view.name} has no version {number}; " + (f"there are {', '.join(known)}" if known else "none is registered"))
    return known[number]


def _ranges(spans: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"partition {partition} from {start} to {end}" for partition, (start, end) in spans.items())


def _operator(name: str | None) -> str:
    if name:
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
