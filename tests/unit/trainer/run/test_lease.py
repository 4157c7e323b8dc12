from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.process.file_lock import LockHeld, is_locked
from infra.settings import Settings, load
from schemas.leases import LeaseName
from trainer.run.lease import awaited_lease, is_shared, lease, lease_path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path / "state"})


def test_a_second_trainer_gets_the_process_id_of_the_holder(settings: Settings) -> None:
    with lease(settings, LeaseName.TRAINER), pytest.raises(LockHeld, match=f"pid {os.getpid()}"), lease(settings, LeaseName.TRAINER):
        pass
    assert not lease_path(settings).exists()


@pytest.mark.parametrize("name", LeaseName)
def test_the_error_names_what_holds_the_lease(settings: Settings, name: LeaseName) -> None:
    with lease(settings, name), pytest.raises(LockHeld, match=f"another {name} is running"), awaited_lease(settings, name, threading.Event()):
        pass


def test_a_bounded_wait_gets_the_lease_that_another_process_of_this_host_releases(settings: Settings) -> None:
    taken = threading.Event()

    def wait() -> None:
        with awaited_lease(settings, LeaseName.HYDRA, threading.Event(), within_s=60):
            taken.set()

    thread = threading.Thread(target=wait)
    with lease(settings, LeaseName.HYDRA):
        thread.start()
        assert not taken.wait(1)
    assert taken.wait(60)
    thread.join(10)


def test_leases_of_different_names_do_not_exclude_each_other(settings: Settings) -> None:
    with lease(settings, LeaseName.TRAINER) as check, lease(settings, LeaseName.PROMOTER):
        check()


def test_the_lease_of_a_killed_trainer_is_free_again(settings: Settings, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from infra.settings import load; from schemas.leases import LeaseName; "
        "from trainer.run.lease import lease\n"
        "with lease(load(stack={'dir': Path(sys.argv[1])}), LeaseName.TRAINER): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(settings.stack.dir)], check=False).returncode == 9
    assert lease_path(settings).exists()
    with lease(settings, LeaseName.TRAINER):
        assert lease_path(settings).read_text() == f"{os.getpid()}\n"


def test_any_process_can_check_whether_the_lease_is_locked(settings: Settings) -> None:
    path = lease_path(settings)
    assert not is_locked(path)
    with lease(settings, LeaseName.TRAINER):
        assert is_locked(path)
    path.touch()
    assert not is_locked(path)


@pytest.mark.parametrize(
    ("tracking_uri", "servers", "shared"),
    [(None, "host:9092", False), ("sqlite:////srv/mlflow.db", "host:9092", False), ("https://mlflow", None, False), ("https://mlflow", "host:9092", True)],
)
def test_hosts_share_a_registry_that_is_a_server(tracking_uri: str | None, servers: str | None, shared: bool) -> None:
    assert is_shared(load(registry={"tracking_uri": tracking_uri}, kafka={"bootstrap_servers": servers})) is shared
