"""What a run leaves beside its topics: the simulated platform's truths, the training report, the registry, the logged swaps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.demo.report import RewardPoint, VersionFigures
from infra.registry.client import RegisteredVersion
from infra.telemetry.json_logs import json_lines
from schemas.run_report import RunReport
from workers.serving.follower import VERSION_SWAPPED


@dataclass(frozen=True)
class Truth:
    """A question of the simulated platform, and its user's own answer."""

    query_id: UUID
    tenant: str
    user: str
    phase: str
    round: str
    truth: str


@dataclass(frozen=True)
class WorkerSwap:
    """A swap as the reflection worker logs it."""

    from_version: str
    to_version: str
    at: str
    in_flight: int
    dropped: int
    waited_ms: float
    load_ms: float


@dataclass(frozen=True)
class RunFiles:
    truths: Sequence[Truth] = ()
    training: RunReport | None = None
    versions: Sequence[RegisteredVersion] = ()
    swaps: Sequence[WorkerSwap] = ()


def read_truths(path: Path) -> list[Truth]:
    return [Truth(UUID(line["query_id"]), line["tenant"], line["user"], line["phase"], line["round"], line["truth"]) for line in _lines(path)]


def read_swaps(stack_dir: Path) -> list[WorkerSwap]:
    """The swaps that the reflection worker has logged."""
    lines = json_lines(stack_dir / "logs" / "reflection.log")
    return [
        WorkerSwap(line["from"], line["to"], line["at"], line["in_flight"], line["dropped"], line["waited_ms"], line["load_ms"])
        for line in lines
        if line.get("text") == VERSION_SWAPPED
    ]


def latest_training(stack_dir: Path) -> RunReport | None:
    """The newest run's report. Run ids sort by time."""
    reports = sorted((stack_dir / "runs").glob("*/report.json"))
    return RunReport.model_validate_json(reports[-1].read_bytes()) if reports else None


def models(files: RunFiles) -> tuple[VersionFigures, ...]:
    """Every registered version. The version that this run trained has the seconds of its stages."""
    return tuple(_model(version, files.training) for version in files.versions)


def rewards(training: RunReport | None) -> tuple[RewardPoint, ...]:
    names = RewardPoint.model_fields
    return tuple(RewardPoint(**{name: getattr(step, name) for name in names}) for step in (training.reward_curve if training else ()))


def _model(version: RegisteredVersion, training: RunReport | None) -> VersionFigures:
    last = version.transitions[-1] if version.transitions else None
    ranges = version.dataset.ranges if version.dataset else {}
    return VersionFigures(
        name=version.name,
        version=version.version,
        alias=", ".join(version.aliases) or None,
        digest=version.digest,
        parent=version.parent,
        offset_ranges={topic: {str(number): ends for number, ends in parts.items()} for topic, parts in ranges.items()},
        dataset_digest=version.dataset.digest if version.dataset else None,
        seconds=training.seconds if training and training.version == version.version else {},
        decision=f"{last.after}, {last.reason}" if last else None,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
