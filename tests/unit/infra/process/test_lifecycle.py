from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.process.lifecycle import MAX_REASON_CHARS, blocked_file, blocked_reason, ready_process, report_blocked
from infra.settings import load


def test_a_blocked_process_publishes_why_until_it_makes_progress_again(tmp_path: Path) -> None:
    settings = load(ready_file=tmp_path / "base.ready")
    report_blocked(settings, None)
    assert not list(tmp_path.iterdir())
    report_blocked(settings, "the base endpoint answers 401 invalid_api_key")
    assert blocked_reason(tmp_path / "base.ready") == "the base endpoint answers 401 invalid_api_key"
    report_blocked(settings, "the base endpoint answers 402 insufficient_quota")
    assert blocked_reason(tmp_path / "base.ready") == "the base endpoint answers 402 insufficient_quota"
    report_blocked(settings, None)
    assert not list(tmp_path.iterdir())


def process(ready_file: Path, body: str) -> subprocess.Popen[str]:
    """A process with this ready file and the code of its body; its environment has no settings of the developer."""
    code = f"import os, sys, threading, time; from infra.process.lifecycle import *\ndef body(settings, stop):\n    {body}\nsys.exit(run_process('part', body))"
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"RETOUCH_READY_FILE": str(ready_file)}, text=True, stderr=subprocess.PIPE)


def test_a_ready_file_holds_the_id_of_the_process_until_it_stops(tmp_path: Path) -> None:
    ready = tmp_path / "base.ready"
    ready.write_text("1")
    blocked_file(ready).write_text("of an earlier process")
    with process(ready, "mark_ready(settings); stop.wait(60); time.sleep(60)") as running:
        try:
            wait_until(lambda: ready_process(ready) == running.pid)
            assert blocked_reason(ready) is None
            running.terminate()
            wait_until(lambda: not ready.exists())
            assert running.poll() is None, "the file goes before the process"
        finally:
            running.kill()


def test_the_file_of_a_killed_process_is_not_its_successors(tmp_path: Path) -> None:
    ready = tmp_path / "base.ready"
    with process(ready, "mark_ready(settings); time.sleep(60)") as killed:
        wait_until(lambda: ready_process(ready) == killed.pid)
        killed.kill()
    assert ready_process(ready) == killed.pid, "nobody can remove it"
    with process(ready, "time.sleep(60)") as successor:
        try:
            assert ready_process(ready) != successor.pid
            wait_until(lambda: not ready.exists())
        finally:
            successor.kill()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("mark_ready(settings)", 0),
        ("mark_ready(settings); 1 / 0", 1),
        ("os.kill(os.getpid(), 15); mark_ready(settings); time.sleep(1)", 0),
    ],
)
def test_a_process_that_has_ended_left_no_ready_file(tmp_path: Path, body: str, code: int) -> None:
    with process(tmp_path / "base.ready", body) as running:
        assert running.wait(60) == code
    assert not list(tmp_path.iterdir())


def test_a_ready_file_that_cannot_be_removed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.ready").mkdir()
    with process(tmp_path / "base.ready", "mark_ready(settings)") as running:
        assert running.wait(60) == 2
        assert running.stderr is not None and "ready_file=" in running.stderr.read()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_repeated_reason_writes_nothing(tmp_path: Path) -> None:
    settings = load(ready_file=tmp_path / "base.ready")
    report_blocked(settings, "no quota")
    before = blocked_file(tmp_path / "base.ready").stat()
    report_blocked(settings, "no quota")
    assert blocked_file(tmp_path / "base.ready").stat() == before


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("two\nlines \r\n of text", "two lines of text"),
        ("x" * 10_000, "x" * MAX_REASON_CHARS),
        ("half a pair: \ud83d", "half a pair: ?"),
        (" \n", None),
        ("", None),
    ],
)
def test_a_reason_is_one_line_of_limited_length(tmp_path: Path, reason: str, line: str | None) -> None:
    report_blocked(load(ready_file=tmp_path / "base.ready"), reason)
    assert blocked_reason(tmp_path / "base.ready") == line


def test_a_reason_without_a_place_to_store_it_raises_nothing(tmp_path: Path) -> None:
    report_blocked(load(), "no quota")
    report_blocked(load(ready_file=tmp_path / "missing" / "base.ready"), "no quota")
    assert not list(tmp_path.iterdir())
