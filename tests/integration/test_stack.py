"""The real stack, interrupted and killed while it starts: no process and no lock may stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.stack_record import lock_path, read_record
from infra.process.environment import environment
from infra.process.file_lock import holder
from infra.settings import load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BOUND_S = 90.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a stack that has started the broker and other processes."""
    settings = load(stack={"dir": tmp_path / "state"})
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen([sys.executable, "-m", "infra.local"], env=environment(settings), stdout=output, stderr=output) as process,
    ):
        deadline = time.monotonic() + BOUND_S
        while len(psutil.Process(process.pid).children()) < 3:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.05)
        yield process
        process.kill()


def test_an_interrupt_while_starting_leaves_no_process_and_no_lock(supervisor: subprocess.Popen[bytes], tmp_path: Path) -> None:
    children = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(BOUND_S) == 0
    assert _have_ended(children)
    assert not (tmp_path / "state" / "lock").exists() and not (tmp_path / "state" / "stack.json").exists()


def test_processes_and_lock_of_a_killed_supervisor_go_with_it(supervisor: subprocess.Popen[bytes], tmp_path: Path) -> None:
    children = psutil.Process(supervisor.pid).children(recursive=True)
    assert holder(lock_path(tmp_path / "state")) == supervisor.pid
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait(BOUND_S)
    assert _have_ended(children)
    assert holder(lock_path(tmp_path / "state")) is None and read_record(tmp_path / "state") is None


def _have_ended(processes: list[psutil.Process]) -> bool:
    """Whether all have ended. Without a process that adopts orphans they stay zombies."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)
