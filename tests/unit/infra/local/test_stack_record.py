"""`stack.json`, and how other commands use it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.local.stack_record import ProcessRecord, ProcessState, StackRecord, StackState, promoter_url, read_record, running_settings, stack_lock
from infra.settings import load


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


def test_a_record_that_cannot_be_parsed_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{half")
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("state", "content", "url"),
    [
        (ProcessState.READY, '{"url": "http://127.0.0.1:9", "pid": 1}', "http://127.0.0.1:9"),
        (ProcessState.STARTING, '{"url": "http://127.0.0.1:9", "pid": 1}', None),
        (ProcessState.READY, "", None),
    ],
)
def test_the_url_of_the_promotion_page_is_known_while_the_promoter_serves(tmp_path: Path, state: ProcessState, content: str, url: str | None) -> None:
    (tmp_path / "promoter.json").write_text(content)
    promoter = ProcessRecord(name="promoter", state=state, pid=1, restarts=0, log=tmp_path)
    assert promoter_url(tmp_path, [promoter]) == url
