"""`stack.json`: the state of a running stack, with its addresses, for other commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.process.file_lock import PidLock, holder
from infra.settings import Settings


class ProcessState(StrEnum):
    """State of one process."""

    WAITING = "waiting"  # for another process
    STARTING = "starting"
    READY = "ready"
    DONE = "done"  # a task that ran to its end
    STOPPED = "stopped"


class StackState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"  # everything is stopped; `failure` says why


class ProcessRecord(BaseModel):
    """One process of the stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: ProcessState
    pid: int | None
    restarts: int
    log: Path


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
        """Whether every process serves now; one that restarts does not."""
        return all(process.state in (ProcessState.READY, ProcessState.DONE) for process in self.processes)

    def write(self, directory: Path) -> None:
        temporary = directory / "stack.json.new"
        temporary.write_text(self.model_dump_json(indent=1) + "\n")
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
    except (OSError, ValueError, KeyError):  # the promoter restarts
        return None


def read_record(directory: Path) -> StackRecord | None:
    """The record of the running or failed stack in this directory. None if there is none, or if the stack was killed."""
    try:
        record = StackRecord.model_validate_json(record_path(directory).read_bytes())
    except (FileNotFoundError, ValidationError):
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
