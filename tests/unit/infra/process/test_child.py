from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.process.child import Child

READY = "import time, signal, sys; print('up', flush=True);"


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """The children in this list are killed afterwards."""
    started: list[Child] = []
    yield started
    for child in started:
        child.kill()


def start(children: list[Child], tmp_path: Path, code: str) -> Child:
    child = Child("sample", [sys.executable, "-c", code], tmp_path / "logs" / "sample.log")
    children.append(child)
    child.start()
    deadline = time.monotonic() + 30
    while "up" not in child.last_lines() and time.monotonic() < deadline:
        time.sleep(0.01)
    return child


def test_output_goes_to_the_log_and_the_exit_code_is_kept(children: list[Child], tmp_path: Path) -> None:
    child = start(children, tmp_path, "print('up'); print('why'); raise SystemExit(3)")
    assert child.wait(30)
    assert (child.exit_code, child.last_lines(1)) == (3, "why")


def test_a_child_has_a_session_of_its_own(children: list[Child], tmp_path: Path) -> None:
    child = start(children, tmp_path, f"{READY} time.sleep(60)")
    assert child.pid is not None and os.getsid(child.pid) == child.pid != os.getsid(0)


def test_a_child_that_ignores_sigterm_is_killed_with_its_children(children: list[Child], tmp_path: Path) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(p.pid, flush=True); time.sleep(60)"
    code = f"import subprocess; p = subprocess.Popen(['sleep', '60']); {READY} {ignore}"
    child = start(children, tmp_path, code)
    while not child.last_lines(1).isdigit():
        time.sleep(0.01)
    grandchild = psutil.Process(int(child.last_lines(1)))
    child.stop(0.3)
    assert child.exit_code == -9
    _, alive = psutil.wait_procs([grandchild], timeout=10)
    assert not alive or grandchild.status() == psutil.STATUS_ZOMBIE


def test_pause_stops_a_child_and_its_children_until_resume(children: list[Child], tmp_path: Path) -> None:
    child = start(children, tmp_path, f"import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); {READY} time.sleep(60)")
    group = [psutil.Process(child.pid), *psutil.Process(child.pid).children()]
    child.pause()
    _await_status(group, {psutil.STATUS_STOPPED})
    child.resume()
    _await_status(group, {psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING})


def test_a_paused_child_stops_by_its_own_handler(children: list[Child], tmp_path: Path) -> None:
    polite = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
    child = start(children, tmp_path, f"{polite} {READY} time.sleep(60)")
    child.pause()
    child.stop(30)
    assert child.exit_code == 7


def _await_status(processes: list[psutil.Process], statuses: set[str]) -> None:
    deadline = time.monotonic() + 10
    while not all(process.status() in statuses for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_can_be_started_again(children: list[Child], tmp_path: Path) -> None:
    child = start(children, tmp_path, f"{READY} time.sleep(60)")
    first = child.pid
    child.stop(10)
    child.start()
    assert child.is_running and child.pid != first


def test_a_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = "from infra.process.child import Child; from pathlib import Path; import time; "
    code += f"c = Child('c', ['sleep', '60'], Path({str(tmp_path / 'c.log')!r})); c.start()"
    parent = subprocess.Popen([sys.executable, "-c", f"{code}; print(c.pid, flush=True); time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        while child.name() != "sleep":  # the process execs the command after it has set its parent-death signal
            time.sleep(0.01)
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=10)
    assert not alive or child.status() == psutil.STATUS_ZOMBIE
