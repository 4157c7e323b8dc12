"""Run reports of the release before still load. The samples were written by its trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.settings import load
from schemas.run_report import RunReport, RunStatus
from trainer.run.report import RunReportFile, status

SAMPLES = Path(__file__).parents[2] / "samples" / "run_reports"


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_stored_report_loads_and_is_written_back_unchanged(path: Path) -> None:
    report = RunReport.model_validate_json(path.read_bytes())
    assert report.status == path.stem
    assert json.dumps(report.to_json(), sort_keys=True) == json.dumps(json.loads(path.read_text()), sort_keys=True)


def test_a_stored_report_is_typed_down_to_its_figures() -> None:
    report = RunReportFile.read(SAMPLES / "trained.json").data
    assert report.evaluation and report.gate and report.decision and report.triggers and report.sft
    assert (report.starts, report.sft.steps, [step.k for step in report.reward_curve]) == (3, 2, [1, 2])
    assert report.evaluation.overall.intervals["candidate_minus_champion"].low == 0.0 and report.evaluation.k == 4
    assert (report.gate.outcome, report.decision.promote, report.triggers[0].kind) == ("inconclusive", False, "by_hand")


def test_the_progress_of_a_stored_report_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "20261128T000000-1"
    folder.mkdir(parents=True)
    (folder / "report.json").write_bytes((SAMPLES / "running.json").read_bytes())
    shown = status(load(stack={"dir": tmp_path}))
    assert shown and (shown.status, shown.stage, shown.step, shown.of, shown.loss, shown.lessons) == ("killed", "rl", 2, 2, 0.25, 12)


def test_fields_of_a_newer_release_are_kept() -> None:
    stored = {"run_id": "1", "status": "interrupted", "settings": {}, "seconds": {}, "new_field": [1]}
    report = RunReport.model_validate(stored)
    assert report.status is RunStatus.INTERRUPTED and report.to_json() == stored
