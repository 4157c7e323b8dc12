from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.local.record import ProcessRecord, StackRecord, StackState, State, promoter_url, read_record, running_settings, stack_lock
from infra.settings import load


def record(state: StackState = StackState.READY, pid: int | None = None) -> StackRecord:
    return StackRecord(state=state, pid=pid or os.getpid(), bootstrap_servers="127.0.0.1:1", base_url="http://127.0.0.1:2/v1", processes=(), failure=None)


def test_a_second_stack_is_refused_with_the_firsts_pid(tmp_path: Path) -> None:
    first = stack_lock(tmp_path)
    first.acquire()
    with pytest.raises(CannotContinue, match=rf"runs already in {tmp_path} \(pid {os.getpid()}\).*retouch down"):
        stack_lock(tmp_path).acquire()
    first.release()


def test_other_commands_find_the_running_stack(tmp_path: Path) -> None:
    lock = stack_lock(tmp_path)
    lock.acquire()
    record().write(tmp_path)
    found = running_settings(load(stack={"dir": tmp_path}))
    assert (found.kafka.bootstrap_servers, found.base.url) == ("127.0.0.1:1", "http://127.0.0.1:2/v1")
    named = running_settings(load(stack={"dir": tmp_path}, kafka={"bootstrap_servers": "mine:9"}))
    assert named.kafka.bootstrap_servers == "mine:9"
    lock.release()


def test_a_killed_stacks_record_counts_for_nothing(tmp_path: Path) -> None:
    record().write(tmp_path)
    settings = load(stack={"dir": tmp_path})
    assert read_record(tmp_path) is None
    assert running_settings(settings) == settings


def test_a_failed_stacks_record_tells_why_and_leads_nowhere(tmp_path: Path) -> None:
    record(StackState.FAILED).write(tmp_path)
    settings = load(stack={"dir": tmp_path})
    assert read_record(tmp_path) is not None
    assert running_settings(settings) == settings


def test_a_record_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{half")
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("state", "said", "url"),
    [
        (State.READY, '{"url": "http://127.0.0.1:9", "pid": 1}', "http://127.0.0.1:9"),
        (State.STARTING, '{"url": "http://127.0.0.1:9", "pid": 1}', None),
        (State.READY, "", None),
    ],
)
def test_the_promoters_page_is_shown_while_it_serves(tmp_path: Path, state: State, said: str, url: str | None) -> None:
    (tmp_path / "promoter.json").write_text(said)
    promoter = ProcessRecord(name="promoter", state=state, pid=1, restarts=0, log=tmp_path)
    assert promoter_url(tmp_path, [promoter]) == url
