import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.settings import load
from schemas.run_report import RunStatus, StageProgress
from tests.support.file_size_limit import file_size_limit
from trainer.interruption import Interrupted
from trainer.run.report import RunReportFile


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
