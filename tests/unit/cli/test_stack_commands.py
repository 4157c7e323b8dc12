"""What `retouch status` and `retouch ask` say about a stack of which a part is down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.ask import what_is_down
from infra.local.stack_record import ProcessRecord, ProcessState, StackRecord, StackState, stack_lock
from infra.settings import load


@pytest.fixture(autouse=True)
def running_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process holds the lock of the state directory, as a supervisor does."""
    monkeypatch.setenv("RETOUCH_STACK__DIR", str(tmp_path))
    lock = stack_lock(tmp_path)
    lock.acquire()
    yield
    lock.release()


def status(tmp_path: Path, teacher: dict[str, Any], *flags: str, state: StackState = StackState.INCOMPLETE) -> tuple[int, str]:
    """Exit code and output for a stack whose teacher has these values."""
    processes = [
        ProcessRecord(**({"name": name, "state": ProcessState.READY, "pid": 7, "restarts": 0, "log": tmp_path / f"{name}.log"} | values))
        for name, values in (("base", {}), ("teacher", teacher))
    ]
    record = StackRecord(state=state, pid=os.getpid(), bootstrap_servers="127.0.0.1:1", base_url=None, processes=tuple(processes))
    record.write(tmp_path)
    result = CliRunner().invoke(app, ["status", *flags])
    return result.exit_code, result.stdout


DOWN = {"state": ProcessState.DOWN, "pid": None, "restarts": 4, "exit_code": 1, "why": "outcomes-0 at offset 5 cannot be decoded"}


def test_status_names_what_is_down_and_why_and_exits_with_1(tmp_path: Path) -> None:
    code, output = status(tmp_path, DOWN)
    line = f"teacher is down, exit code 1: outcomes-0 at offset 5 cannot be decoded; starts again now; log: {tmp_path}/teacher.log"
    assert code == 1 and line in output.splitlines()
    assert "base " in output and "base is" not in output


def test_status_in_json_holds_the_same(tmp_path: Path) -> None:
    code, output = status(tmp_path, DOWN, "--json")
    teacher = json.loads(output)["processes"][1]
    assert code == 1 and teacher["state"] == "down"
    assert (teacher["exit_code"], teacher["why"], teacher["restarts"]) == (1, DOWN["why"], 4)


def test_status_names_a_process_that_runs_and_makes_no_progress(tmp_path: Path) -> None:
    code, output = status(tmp_path, {"blocked": "the endpoint answers 402 \x1b[2J"})
    assert code == 1 and f"teacher makes no progress: the endpoint answers 402 \\x1b[2J; log: {tmp_path}/teacher.log" in output


def test_a_question_without_a_response_names_what_is_down(tmp_path: Path) -> None:
    settings = load(stack={"dir": tmp_path})
    status(tmp_path, {})
    assert "retouch status" in what_is_down(settings)
    status(tmp_path, DOWN)
    assert what_is_down(settings).startswith("teacher is down, exit code 1: outcomes-0 at offset 5 cannot be decoded;")


@pytest.mark.parametrize(("state", "code"), [(StackState.READY, 0), (StackState.STARTING, 1), (StackState.FAILED, 1)])
def test_the_exit_code_says_whether_every_process_serves(tmp_path: Path, state: StackState, code: int) -> None:
    assert status(tmp_path, {}, state=state)[0] == code
