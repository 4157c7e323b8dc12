import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.process.file_lock import LockHeld, is_locked
from trainer.run.lease import lease


def test_a_second_trainer_gets_the_process_id_of_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "state" / "trainer.lock"
    with lease(path), pytest.raises(LockHeld, match=f"pid {os.getpid()}"), lease(path):
        pass
    assert not path.exists()


def test_the_error_names_the_process_kind_that_holds_the_lease(tmp_path: Path) -> None:
    path = tmp_path / "promoter.lock"
    with lease(path), pytest.raises(LockHeld, match="another promoter is running"), lease(path):
        pass


def test_the_lease_of_a_killed_trainer_is_free_again(tmp_path: Path) -> None:
    path = tmp_path / "trainer.lock"
    code = "import os, sys; from pathlib import Path; from trainer.run.lease import lease\nwith lease(Path(sys.argv[1])): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.exists()
    with lease(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_any_process_can_check_whether_the_lease_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "trainer.lock"
    assert not is_locked(path)
    with lease(path):
        assert is_locked(path)
    path.touch()
    assert not is_locked(path)
