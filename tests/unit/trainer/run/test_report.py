import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings, load
from schemas.leases import LeaseName
from schemas.run_report import RunStatus, StageProgress
from tests.support.file_size_limit import file_size_limit
from trainer.interruption import Interrupted
from trainer.run.lease import lease
from trainer.run.report import STATE, RunReportFile, status, unfinished


def begin(directory: Path) -> RunReportFile:
    return RunReportFile.begin(load(stack={"dir": directory}))


def on_disk(report: RunReportFile) -> dict[str, object]:
    content: dict[str, object] = json.loads(report.path.read_text())
    return content


def test_a_report_shows_its_stage_and_step_while_it_runs(tmp_path: Path) -> None:
    report = begin(tmp_path)
    with report.stage("rl"):
        assert on_disk(report)["stage"] == "rl" and on_disk(report)["progress"] is None
        report.record_step(StageProgress(step=60, of=60, eta_s=0.0, reward=0.7, k=6))
        content = on_disk(report)
        assert content["progress"] == {"step": 60, "of": 60, "eta_s": 0.0, "reward": 0.7, "k": 6}
        assert "rl" in report.data.seconds and report.data.peak_rss_bytes["rl"] > 1_000_000
    report.finish(RunStatus.INTERRUPTED, "stopped on request")
    assert (on_disk(report)["status"], on_disk(report)["stage"], on_disk(report)["progress"]) == ("interrupted", None, None)


def test_seconds_of_a_stage_add_up_over_processes_and_the_highest_peak_counts(tmp_path: Path) -> None:
    report = begin(tmp_path)
    report.data.seconds, report.data.peak_rss_bytes = {"sft": 100.0}, {"sft": 10**15}
    report.save()
    reopened = RunReportFile.read(report.path)
    with reopened.stage("sft"):
        pass
    assert 100.0 <= reopened.data.seconds["sft"] < 200.0 and reopened.data.peak_rss_bytes["sft"] == 10**15


def test_a_full_disk_does_not_hide_what_ended_a_stage(tmp_path: Path) -> None:
    report = begin(tmp_path)
    disk = ExitStack()

    def stopped() -> None:
        disk.enter_context(file_size_limit(0))
        raise Interrupted("stopped on request")

    with pytest.raises(Interrupted), disk, report.stage("sft"):
        stopped()
    assert on_disk(report)["seconds"] == {} and "sft" in report.data.seconds


def test_the_report_of_a_step_is_synced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, synced, sync = begin(tmp_path), list[str](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    with report.stage("rl"):
        monkeypatch.setattr("os.fsync", note)
        report.record_step(StageProgress(step=60, of=60, eta_s=0.0, k=6))
        assert synced == ["report.tmp"]


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "{}", "not JSON"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ValueError):  # noqa: PT011  # JSON's own error is one
            RunReportFile.read(tmp_path / "report.json")


def test_reports_of_the_same_second_have_their_own_folders_in_order(tmp_path: Path) -> None:
    names = [begin(tmp_path).run_id for _ in range(3)]
    assert len(set(names)) == 3 and names == sorted(names)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path})


def test_the_status_shows_the_progress_of_a_run_and_that_it_was_killed(settings: Settings) -> None:
    assert status(settings) is None
    report = RunReportFile.begin(settings)
    with lease(settings, LeaseName.TRAINER):
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
