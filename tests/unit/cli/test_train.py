"""`retouch train status`: the state of the newest run, read from its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.settings import load
from schemas.run_report import StageProgress
from trainer.run.report import RunReportFile


def status(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", "status", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_run_status_fails() -> None:
    code, output, error = status("--json")
    assert code == 1 and not output and error == "retouch: no run yet in .retouch: `retouch train --once` makes one\n"


def test_the_newest_run_is_shown_as_text_and_as_json() -> None:
    report = RunReportFile.begin(load())
    with report.stage("rl"):
        report.record_step(StageProgress(step=120, of=400, eta_s=60.0, k=4, reward=0.51234, loss=0.25))
        report.save()
    code, output, _ = status("--json")
    state = json.loads(output)
    assert code == 0 and (state["stage"], state["step"], state["of"], state["k"], state["reward"], state["eta_s"]) == ("rl", 120, 400, 4, 0.51234, 60.0)
    code, output, _ = status()
    rows = dict(line.split(maxsplit=1) for line in output.splitlines() if len(line.split(maxsplit=1)) == 2)
    assert code == 0 and rows["stage"].strip() == "rl" and rows["reward"].strip() == "0.5123" and rows["status"].strip() == "killed"


def test_a_report_that_cannot_be_read_is_one_line() -> None:
    report = RunReportFile.begin(load())
    report.path.write_text("{")
    code, _, error = status()
    assert code == 1 and error.count("\n") == 1 and "report.json: not the report of a run" in error
