"""The stack in the background: starts it for `retouch up`, reads its record for `status`, stops it for `down`."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from infra.errors import BadSetting, CannotContinue
from infra.local.progress import StartProgress
from infra.local.stack_record import StackRecord, StackState, lock_path, read_record, record_path
from infra.process.environment import environment
from infra.process.file_lock import holder
from infra.process.lifecycle import USAGE
from infra.settings import Settings

#: Time for the supervisor itself, added to that of its processes.
GRACE_S = 10.0


def up(settings: Settings, *, trainer: bool = False) -> StackRecord:
    """Start a detached supervisor and block until the start is over: every process serves (`ready`), or has failed several times or not become ready
    in time (`incomplete`; what serves stays up). An interrupt stops what was started.

    Raises CannotContinue if a stack runs already or its broker does not start, BadSetting if a process refuses a setting; then nothing is left running.
    """
    directory = settings.stack.dir.resolve()
    if pid := holder(lock_path(directory)):
        raise CannotContinue(f"a stack runs already in {directory} (pid {pid}): `retouch down` stops it")
    log = directory / "logs" / "supervisor.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        record_path(directory).unlink(missing_ok=True)
        with log.open("ab") as output:
            command = [sys.executable, "-m", "infra.local", *(["--trainer"] if trainer else [])]
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(settings), start_new_session=True)
    except OSError as error:
        raise CannotContinue(f"cannot write to {directory}: {error.strerror or error}; set stack.dir to a writable place") from error
    try:
        return _await_start(daemon, settings)
    except BaseException:
        _stop(psutil.Process(daemon.pid) if daemon.poll() is None else None, settings)
        raise


def status(settings: Settings) -> StackRecord | None:
    """The record of the stack in this directory, running or failed, or None."""
    return read_record(settings.stack.dir)


def down(settings: Settings) -> bool:
    """Stop the stack of this directory and return whether one ran. Blocks until it has stopped; kills it after a bound.

    Raises CannotContinue if this user may not stop it, or cannot remove its record.
    """
    pid, record = holder(lock_path(settings.stack.dir)), record_path(settings.stack.dir)
    if pid is not None:
        try:
            _stop(psutil.Process(pid), settings)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            raise CannotContinue(f"the stack in {settings.stack.dir} (pid {pid}) belongs to another user, who can stop it") from None
    try:
        record.unlink(missing_ok=True)
    except OSError as error:
        raise CannotContinue(f"cannot remove {record}: {error.strerror or error}; remove it, or set stack.dir to another place") from error
    return pid is not None


def _await_start(daemon: subprocess.Popen[bytes], settings: Settings) -> StackRecord:
    directory = settings.stack.dir
    deadline = time.monotonic() + settings.stack.start_timeout_s + GRACE_S
    with StartProgress() as progress:
        while time.monotonic() < deadline:
            record = read_record(directory)
            if daemon.poll() is not None:
                _explain(daemon.returncode, record, settings)
            if record and record.state in (StackState.READY, StackState.INCOMPLETE):
                return record
            if record:
                progress.show(record.processes)
            time.sleep(0.1)
    raise CannotContinue(f"the supervisor did not report within {settings.stack.start_timeout_s + GRACE_S:.0f} s; logs are in {directory / 'logs'}")


def _explain(exit_code: int, record: StackRecord | None, settings: Settings) -> None:
    reason = record.failure if record and record.failure else f"the supervisor ended with exit code {exit_code}"
    if exit_code == USAGE:
        raise BadSetting(reason)
    raise CannotContinue(f"{reason}\nall logs are in {settings.stack.dir / 'logs'}")


def _stop(supervisor: psutil.Process | None, settings: Settings) -> None:
    """SIGTERM, then SIGKILL after a bound, which also ends its processes (see `infra.process.parent_death`)."""
    if supervisor is None:
        return
    supervisor.terminate()
    try:
        supervisor.wait(settings.stack.stop_timeout_s + GRACE_S)
    except psutil.TimeoutExpired:
        supervisor.kill()
        supervisor.wait(GRACE_S)
