from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.demo.run_files import RunFiles, latest_training, models, read_swaps
from infra.registry.client import RegisteredVersion
from infra.registry.version_tags import DatasetLineage
from schemas.model_events import Alias
from schemas.promotion import Transition, VersionState
from schemas.run_report import RunDecision, RunReport, RunStatus

CREATED = datetime(2026, 11, 20, tzinfo=UTC)
PROMOTED = Transition(seq=1, before=VersionState.CANARY, after=VersionState.CHAMPION, at=CREATED, actor="promoter", reason="better for its users")


def test_swaps_are_read_from_the_worker_s_log(tmp_path: Path) -> None:
    line = {
        "text": "version swapped",
        "from": "1",
        "to": "2",
        "at": "2026-11-20T12:00:00+00:00",
        "in_flight": 4,
        "dropped": 0,
        "waited_ms": 1.5,
        "load_ms": 2.5,
    }
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "reflection.log").write_text(f"no JSON\n{json.dumps({'text': 'ready'})}\n{json.dumps(line)}\n")
    [swap] = read_swaps(tmp_path)
    assert (swap.from_version, swap.to_version, swap.in_flight) == ("1", "2", 4)


def test_no_log_means_no_swap(tmp_path: Path) -> None:
    assert read_swaps(tmp_path) == []


def report(run_id: str, **fields: Any) -> RunReport:
    return RunReport(run_id=run_id, status=RunStatus.TRAINED, settings={}, seconds={"sft": 3.0}, **fields)


def test_the_newest_training_run_counts(tmp_path: Path) -> None:
    for run_id in ("20261120T110000-9", "20261120T120000-1"):
        (tmp_path / "runs" / run_id).mkdir(parents=True)
        (tmp_path / "runs" / run_id / "report.json").write_text(report(run_id).model_dump_json())
    assert latest_training(tmp_path) == report("20261120T120000-1")
    assert latest_training(tmp_path / "nowhere") is None


def test_the_trained_version_carries_its_lineage_and_its_run() -> None:
    lineage = DatasetLineage("snapshot", "d1", {"outcomes": {0: (0, 12)}})
    versions = [
        RegisteredVersion("m", "1", "aa", None, CREATED),
        RegisteredVersion("m", "2", "bb", "1", CREATED, aliases=(Alias.CHAMPION,), dataset=lineage, history=(PROMOTED,)),
    ]
    training = report("1", version="2", decision=RunDecision(promote=True, reason="passed"))
    first, second = models(RunFiles(training=training, versions=versions))
    assert (first.decision, first.offset_ranges, first.seconds) == (None, {}, {})
    assert (second.alias, second.parent, second.dataset_digest) == ("champion", "1", "d1")
    assert second.offset_ranges == {"outcomes": {"0": (0, 12)}}
    assert (second.seconds, second.decision) == ({"sft": 3.0}, "champion, better for its users")
