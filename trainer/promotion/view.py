"""What there is to see of promotion, as plain JSON values: for the page, `retouch models` and whoever asks the API.

Intervals are mean +- 1.96 standard errors over users, for people to look at; decisions rest on the wider ones of `verdict`, which stay valid however often
one looks. Rows of `quality` are of the experiment under way, or else of the last hour's windows, in each of which a user counts anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from infra.registry.client import RegisteredVersion
from infra.settings import PromotionSettings, Settings
from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality
from trainer.judge.gate_result import GATE
from trainer.promotion.promoter import PromoterState
from trainer.promotion.verdict import guardrails
from trainer.promotion.version_history import VersionHistories

Z = 1.96
#: Of all versions' transitions the newest so many are shown together.
NEWEST = 20


def view_of(sight: PromoterState, settings: Settings) -> dict[str, Any]:
    """As the last look saw it: `at` says when, so that whoever shows it can say how old it is while the registry is away."""
    histories, seen = sight.histories, sight.seen
    champion, challenger = histories.champion, histories.challenger
    cells = seen.cells if histories.experiment and seen.experiment == histories.experiment else ()
    return {
        "name": settings.registry.model_name,
        "at": sight.at.isoformat(),
        "champion": champion.version if champion else None,
        "challenger": challenger.version if challenger else None,
        "approval": settings.promotion.approval,
        "experiment": _experiment(challenger, cells, sight) if challenger else None,
        "versions": [version_json(histories, version) for version in histories.versions],
        "quality": _rows(cells or seen.windows),
        "windows": _windows(seen.windows),
        "guardrails": _guardrails(cells, settings.promotion),
        "workers": [report.model_dump(mode="json") for report in seen.reports],
        "transitions": _newest(histories),
    }


def version_json(histories: VersionHistories, version: RegisteredVersion) -> dict[str, Any]:
    """One version with its whole log."""
    return {
        "version": version.version,
        "digest": version.digest,
        "parent": version.parent,
        "created_at": version.created_at.isoformat(),
        "state": histories.state(version).value,
        "aliases": [alias.value for alias in version.aliases],
        "metrics": dict(version.metrics),
        "code_version": version.tags.get("code_version"),
        "dataset_digest": version.dataset.digest if version.dataset else None,
        "offset_ranges": json.loads(version.dataset.to_json())["ranges"] if version.dataset else {},
        "tags": {name: value for name, value in version.tags.items() if name != GATE},
        "transitions": [transition.model_dump(mode="json") for transition in version.transitions],
    }


def _experiment(challenger: RegisteredVersion, cells: Sequence[Quality], sight: PromoterState) -> dict[str, Any]:
    last = challenger.transitions[-1]
    verdict = {"outcome": sight.verdict.outcome.value, "reason": sight.verdict.reason} if sight.verdict else {"outcome": "running", "reason": "no figures yet"}
    return {
        "id": str(last.experiment),
        "version": challenger.version,
        "stage": last.after.value,
        "share": last.share,
        "since": last.at.isoformat(),
        "arms": {arm.value: _arm([cell for cell in cells if cell.arm is arm and cell.domain is None]) for arm in Arm if any(cell.arm is arm for cell in cells)},
        "verdict": verdict,
    }


def _arm(cells: Sequence[Quality]) -> dict[str, Any]:
    reward = _sum(cells)
    return {"version": cells[-1].version if cells else None, "answers": sum(cell.answers for cell in cells), "scored": reward.n, "users": reward.users}


def _rows(cells: Iterable[Quality]) -> list[dict[str, Any]]:
    """The reward by version, arm and domain; domain None is all of them."""
    grouped = _grouped(cells, lambda cell: (cell.version, cell.arm.value, cell.domain))
    rows = [{"version": version, "arm": arm, "domain": domain, **_interval(_sum(some))} for (version, arm, domain), some in grouped.items()]
    return sorted(rows, key=lambda row: (int(row["version"]), row["arm"], row["domain"] or ""))


def _windows(cells: Iterable[Quality]) -> list[dict[str, Any]]:
    """The reward by window, version and arm, oldest first."""
    whole = (cell for cell in cells if cell.domain is None)
    grouped = _grouped(whole, lambda cell: (cell.started_at, cell.ended_at, cell.version, cell.arm.value))
    rows = []
    for (started_at, ended_at, version, arm), some in sorted(grouped.items()):
        found = _interval(_sum(some))
        del found["users"]
        rows.append({"version": version, "arm": arm, "started_at": started_at.isoformat(), "ended_at": ended_at.isoformat(), **found})
    return rows


def _guardrails(cells: Sequence[Quality], promotion: PromotionSettings) -> list[dict[str, Any]]:
    return [asdict(rail) | {"metric": rail.metric.value} for rail in guardrails(cells, promotion)] if cells else []


def _newest(histories: VersionHistories) -> list[dict[str, Any]]:
    steps = [(step, version.version) for version in histories.versions for step in version.transitions]
    newest = sorted(steps, key=lambda found: (found[0].at, int(found[1])), reverse=True)[:NEWEST]
    return [{"version": version, **step.model_dump(mode="json")} for step, version in newest]


def _grouped(cells: Iterable[Quality], key: Any) -> Mapping[Any, list[Quality]]:
    found: dict[Any, list[Quality]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return found


def _sum(cells: Iterable[Quality]) -> Moments:
    """Of the reward, over partitions."""
    return sum((cell.metrics[Metric.REWARD] for cell in cells if Metric.REWARD in cell.metrics), Moments())


def _interval(moments: Moments) -> dict[str, Any]:
    half = Z * math.sqrt(moments.variance)
    known = moments.n > 0 and math.isfinite(half)
    return {
        "scored": moments.n,
        "users": moments.users,
        "mean": moments.mean if moments.n else None,
        "low": moments.mean - half if known else None,
        "high": moments.mean + half if known else None,
    }
