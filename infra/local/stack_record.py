"""`stack.json`: the state of a running stack, with its addresses, for other commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from infra.errors import CannotContinue
from infra.process.file_lock import PidLock, holder
from infra.settings import Settings


class ProcessState(StrEnum):
    """State of one process."""

    WAITING = "waiting"  # for another process
    STARTING = "starting"
    READY = "ready"
    DONE = "done"  # a task that ran to its end
    DOWN = "down"  # ended, and is started again after a pause
    STOPPED = "stopped"


class StackState(StrEnum):
    STARTING = "starting"
    READY = "ready"  # every process serves
    INCOMPLETE = "incomplete"  # the start is over, and not every process serves; the others do
    FAILED = "failed"  # everything is stopped; `failure` says why


class ProcessRecord(BaseModel):
    """One process of the stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: ProcessState
    pid: int | None
    restarts: int
    log: Path
    waits_for: tuple[str, ...] = ()  # processes that must serve before this one starts
    exit_code: int | None = None  # of its last end, negative for a signal; None also if it could not be started
    why: str | None = None  # the reason of its last end
    next_start_at: AwareDatetime | None = None  # while it is down
    blocked: str | None = None  # why it makes no progress although it runs, as it reports itself

    @property
    def is_serving(self) -> bool:
        return self.state in (ProcessState.READY, ProcessState.DONE) and self.blocked is None

    def problem(self, now: datetime) -> str | None:
        """What keeps this process from serving, in one line with its log; None if it serves, or was stopped."""
        if self.is_serving or self.state is ProcessState.STOPPED:
            return None
        last_end = "" if self.why is None else self.why if self.exit_code is None else f"exit code {self.exit_code}: {self.why}"
        if self.blocked is not None:
            text = f"makes no progress: {self.blocked}"
        elif self.state is ProcessState.DOWN:
            text = f"is down, {last_end}; starts again {self._next_start(now)}"
        elif self.state is ProcessState.WAITING:
            text = f"waits for {', '.join(self.waits_for)}" + (f"; last end: {last_end}" if last_end else "")
        else:
            text = "is starting" + (f" again after {last_end}" if last_end else "")
        return f"{self.name} {text}; log: {self.log}"

    def _next_start(self, now: datetime) -> str:
        pause_s = (self.next_start_at - now).total_seconds() if self.next_start_at else 0.0
        return f"in {pause_s:.0f} s" if pause_s >= 1 else "now"


class StackRecord(BaseModel):
    """Content of `stack.json`."""

    model_config = ConfigDict(frozen=True)

    state: StackState
    pid: int
    bootstrap_servers: str | None
    base_url: str | None
    processes: tuple[ProcessRecord, ...]
    promoter_url: str | None = None  # of the promotion page, while the promoter serves
    failure: str | None = None

    @property
    def is_serving(self) -> bool:
        """Whether every process serves now; one that restarts or reports that it is blocked does not."""
        return all(process.is_serving for process in self.processes)

    def problems(self, now: datetime) -> list[str]:
        """One line for each process that does not serve."""
        return [problem for process in self.processes if (problem := process.problem(now))]

    def write(self, directory: Path) -> None:
        temporary = directory / "stack.json.new"
        temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(record_path(directory))


def record_path(directory: Path) -> Path:
    return directory / "stack.json"


def lock_path(directory: Path) -> Path:
    return directory / "lock"


def stack_lock(directory: Path) -> PidLock:
    """One stack per state directory."""
    return PidLock(lock_path(directory), lambda pid: f"a stack runs already in {directory} (pid {pid}): `retouch down` stops it, or set stack.dir elsewhere")


def promoter_url(directory: Path, processes: Sequence[ProcessRecord]) -> str | None:
    """URL of the promotion page, or None while the promoter does not serve."""
    if not any(process.name == "promoter" and process.state is ProcessState.READY for process in processes):
        return None
    try:
        return str(json.loads((directory / "promoter.json").read_bytes())["url"])
    except (OSError, ValueError, KeyError, TypeError):  # the promoter restarts
        return None


def read_record(directory: Path) -> StackRecord | None:
    """The record of the running or failed stack in this directory. None if there is none, or if the stack was killed.

    Raises CannotContinue for a file that cannot be read, and for one of a running stack that is no record.
    """
    path = record_path(directory)
    try:
        record = StackRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotContinue(f"cannot read {path}: {error.strerror or error}; make it readable for this user, or set stack.dir to another place") from error
    except ValidationError:
        if pid := holder(lock_path(directory)):
            raise CannotContinue(f"{path} is no record of a stack, but one runs (pid {pid}): `retouch down` stops it") from None
        return None
    is_current = record.state is StackState.FAILED or holder(lock_path(directory)) == record.pid
    return record if is_current else None


def with_addresses(settings: Settings, bootstrap_servers: str | None, base_url: str | None) -> Settings:
    """`settings` with these addresses where they have none."""
    kafka, base = {"bootstrap_servers": settings.kafka.bootstrap_servers or bootstrap_servers}, {"url": settings.base.url or base_url}
    return settings.changed(kafka=kafka, base=base)


def running_settings(settings: Settings) -> Settings:
    """`settings` with the addresses of the running stack; unchanged if none runs."""
    record = read_record(settings.stack.dir)
    if record is None or record.state is StackState.FAILED:
        return settings
    return with_addresses(settings, record.bootstrap_servers, record.base_url)
