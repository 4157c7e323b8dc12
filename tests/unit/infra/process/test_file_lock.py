from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.errors import RetryLater
from infra.process.file_lock import LockHeld, PidLock, holder, is_locked, locked
from infra.registry.client import Registry
from infra.settings import Settings
from infra.settings.process import StackSettings
from schemas.model_events import Alias

HOLD = """
import sys, time
from pathlib import Path
from infra.process.file_lock import PidLock
lock = PidLock(Path(sys.argv[1]), str)
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def pid_lock(path: Path) -> PidLock:
    return PidLock(path, lambda pid: f"process {pid} holds it")


def test_a_process_waits_for_a_lock_until_its_holder_ends(tmp_path: Path) -> None:
    path, held, release = tmp_path / "lock", threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path, timeout_s=1):
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    with pytest.raises(RetryLater, match=r"held .*/lock for 0\.05 s"), locked(path, timeout_s=0.05):
        pass
    threading.Timer(0.1, release.set).start()
    with locked(path, timeout_s=10):
        thread.join(10)


def test_a_second_holder_is_refused_with_the_firsts_pid(tmp_path: Path) -> None:
    first = pid_lock(tmp_path / "lock")
    first.acquire()
    assert holder(tmp_path / "lock") == os.getpid()
    with pytest.raises(LockHeld, match=f"process {os.getpid()} holds it"):
        pid_lock(tmp_path / "lock").acquire()
    first.release()


def test_a_released_lock_leaves_no_file(tmp_path: Path) -> None:
    lock = pid_lock(tmp_path / "lock")
    lock.acquire()
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert holder(tmp_path / "lock") is None and not is_locked(tmp_path / "lock")


def test_the_lock_of_a_killed_holder_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert holder(tmp_path / "lock") == process.pid
        process.kill()
    assert (tmp_path / "lock").exists() and holder(tmp_path / "lock") is None
    lock = pid_lock(tmp_path / "lock")
    lock.acquire()
    assert holder(tmp_path / "lock") == os.getpid()
    lock.release()


def test_the_lock_of_an_older_version_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("4711")  # without a line end
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(path) == 4711
        with pytest.raises(LockHeld, match="process 4711 holds it"):
            pid_lock(path).acquire()


@pytest.mark.slow
def test_a_registry_that_another_process_is_opening_raises_retry_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.registry.mlflow_store.OPEN_WITHIN_S", 0.05)
    (tmp_path / "registry").mkdir()
    with locked(tmp_path / "registry" / "mlflow.db.lock", timeout_s=1), pytest.raises(RetryLater, match=r"mlflow\.db\.lock"):
        Registry(Settings(stack=StackSettings(dir=tmp_path))).resolve(Alias.CHAMPION)
