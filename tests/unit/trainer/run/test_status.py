from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings, load
from schemas.run_report import RunStatus, StageProgress
from trainer.run.lease import lease, lease_path
from trainer.run.report import RunReportFile
from trainer.run.resumption import STATE
from trainer.run.status import status, unfinished


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path})


def test_the_status_shows_the_progress_of_a_run_and_that_it_was_killed(settings: Settings) -> None:
    assert status(settings) is None
    report = RunReportFile.begin(settings)
    with lease(lease_path(settings)):
        with report.stage("rl"):
            report.record_step(StageProgress(step=3, of=3, eta_s=0.0, k=2, reward=0.5, loss=0.25))
            shown = status(settings)
        assert shown is not None and (shown.status, shown.stage) == ("running", "rl")
        assert (shown.step, shown.of, shown.k, shown.reward, shown.loss, shown.eta_s) == (3, 3, 2, 0.5, 0.25, 0.0)
        assert unfinished(settings) == []
    killed = status(settings)
    assert killed is not None and killed.status == "killed" and killed.run_id == report.run_id


def test_runs_that_can_be_resumed_are_listed(settings: Settings) -> None:
    report = RunReportFile.begin(settings)
    report.save()
    assert unfinished(settings) == []  # it has no state
    (report.directory / STATE).mkdir()
    assert unfinished(settings) == [report.run_id]
    report.finish(RunStatus.INTERRUPTED, "stopped on request")
    assert unfinished(settings) == [report.run_id]
    report.finish(RunStatus.TRAINED, "")
    assert unfinished(settings) == []


def test_the_newest_run_is_shown_and_an_unreadable_report_is_named(settings: Settings) -> None:
    directory = settings.stack.dir / "runs"
    for run_id in ("20260101T000000-1", "20260102T000000-1"):
        (directory / run_id).mkdir(parents=True)
        stored: dict[str, Any] = {
            "run_id": run_id,
            "status": "nothing_to_train",
            "settings": {},
            "seconds": {},
            "triggers": [{"kind": "by_hand", "fired": True}],
        }
        (directory / run_id / "report.json").write_text(json.dumps(stored))
    summary = status(settings)
    assert summary is not None and summary.run_id == "20260102T000000-1" and summary.triggers == ["by_hand"]
    (directory / "20260102T000000-1" / "report.json").write_text("{")
    with pytest.raises(CannotContinue, match=r"20260102T000000-1/report\.json: not the report of a run"):
        status(settings)
