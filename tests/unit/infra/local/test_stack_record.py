"""`stack.json`, and how other commands use it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.local.daemon import down
from infra.local.stack_record import ProcessRecord, ProcessState, StackRecord, StackState, promoter_url, read_record, running_settings, stack_lock
from infra.settings import load

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(state: StackState = StackState.READY, pid: int | None = None) -> StackRecord:
    return StackRecord(state=state, pid=pid or os.getpid(), bootstrap_servers="127.0.0.1:1", base_url="http://127.0.0.1:2/v1", processes=(), failure=None)


def test_a_second_stack_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first = stack_lock(tmp_path)
    first.acquire()
    with pytest.raises(CannotContinue, match=rf"runs already in {tmp_path} \(pid {os.getpid()}\).*retouch down"):
        stack_lock(tmp_path).acquire()
    first.release()


def test_other_commands_find_the_running_stack(tmp_path: Path) -> None:
    lock = stack_lock(tmp_path)
    lock.acquire()
    record().write(tmp_path)
    settings = running_settings(load(stack={"dir": tmp_path}))
    assert (settings.kafka.bootstrap_servers, settings.base.url) == ("127.0.0.1:1", "http://127.0.0.1:2/v1")
    configured = running_settings(load(stack={"dir": tmp_path}, kafka={"bootstrap_servers": "mine:9"}))
    assert configured.kafka.bootstrap_servers == "mine:9"
    lock.release()


def test_the_record_of_a_killed_stack_is_ignored(tmp_path: Path) -> None:
    record().write(tmp_path)
    settings = load(stack={"dir": tmp_path})
    assert read_record(tmp_path) is None
    assert running_settings(settings) == settings


def test_the_record_of_a_failed_stack_gives_no_addresses(tmp_path: Path) -> None:
    record(StackState.FAILED).write(tmp_path)
    settings = load(stack={"dir": tmp_path})
    assert read_record(tmp_path) is not None
    assert running_settings(settings) == settings


def test_the_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    old = {
        "state": "ready",
        "pid": os.getpid(),
        "bootstrap_servers": "127.0.0.1:1",
        "base_url": None,
        "promoter_url": None,
        "failure": None,
        "processes": [{"name": "base", "state": "starting", "pid": 7, "restarts": 2, "log": "/state/logs/base.log"}],
    }
    (tmp_path / "stack.json").write_text(json.dumps(old))
    lock = stack_lock(tmp_path)
    lock.acquire()
    read = read_record(tmp_path)
    lock.release()
    assert read is not None and not read.is_serving
    assert read.problems(datetime.now(UTC)) == ["base is starting; log: /state/logs/base.log"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"state": ProcessState.READY}, None),
        ({"state": ProcessState.DONE, "pid": None}, None),
        ({"state": ProcessState.STOPPED, "pid": None, "why": "killed by SIGKILL", "exit_code": -9}, None),
        ({"state": ProcessState.STARTING}, "base is starting; log: /logs/base.log"),
        ({"state": ProcessState.STARTING, "exit_code": 1, "why": "no disk"}, "base is starting again after exit code 1: no disk; log: /logs/base.log"),
        ({"state": ProcessState.WAITING, "waits_for": ("broker", "registry")}, "base waits for broker, registry; log: /logs/base.log"),
        (
            {"state": ProcessState.WAITING, "waits_for": ("broker",), "exit_code": 1, "why": "no broker"},
            "base waits for broker; last end: exit code 1: no broker; log: /logs/base.log",
        ),
        ({"state": ProcessState.DOWN, "exit_code": 1, "why": "no disk"}, "base is down, exit code 1: no disk; starts again now; log: /logs/base.log"),
        (
            {"state": ProcessState.DOWN, "why": "cannot write its log", "next_start_at": NOW + timedelta(seconds=8)},
            "base is down, cannot write its log; starts again in 8 s; log: /logs/base.log",
        ),
        ({"state": ProcessState.READY, "blocked": "no quota"}, "base makes no progress: no quota; log: /logs/base.log"),
    ],
)
def test_a_process_that_does_not_serve_says_why(changes: dict[str, Any], problem: str | None) -> None:
    process = ProcessRecord(**({"name": "base", "pid": 7, "restarts": 0, "log": Path("/logs/base.log")} | changes))
    assert process.problem(NOW) == problem


def test_a_record_that_cannot_be_parsed_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{half")
    assert read_record(tmp_path) is None


def test_a_running_stack_whose_record_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{half")
    lock = stack_lock(tmp_path)
    lock.acquire()
    with pytest.raises(CannotContinue, match=rf"stack.json is no record of a stack, but one runs \(pid {os.getpid()}\): `retouch down`"):
        read_record(tmp_path)
    lock.release()


def a_directory(path: Path) -> None:
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [a_directory, a_link_to_itself])
@pytest.mark.parametrize("name", ["stack.json", "lock"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    record().write(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(CannotContinue, match=rf"cannot read {tmp_path / name}: "):
        read_record(tmp_path)


def test_a_record_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    (tmp_path / "stack.json").mkdir()
    with pytest.raises(CannotContinue, match=rf"cannot remove {tmp_path}/stack.json: "):
        down(load(stack={"dir": tmp_path}))


@pytest.mark.parametrize(
    ("state", "content", "url"),
    [
        (ProcessState.READY, '{"url": "http://127.0.0.1:9", "pid": 1}', "http://127.0.0.1:9"),
        (ProcessState.STARTING, '{"url": "http://127.0.0.1:9", "pid": 1}', None),
        (ProcessState.READY, "", None),
        (ProcessState.READY, "[]", None),
    ],
)
def test_the_url_of_the_promotion_page_is_known_while_the_promoter_serves(tmp_path: Path, state: ProcessState, content: str, url: str | None) -> None:
    (tmp_path / "promoter.json").write_text(content)
    promoter = ProcessRecord(name="promoter", state=state, pid=1, restarts=0, log=tmp_path)
    assert promoter_url(tmp_path, [promoter]) == url
