"""The supervisor on small real processes: order, restarts, the ceiling, the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.errors import BadSetting, CannotContinue
from infra.local.record import State
from infra.local.service import ProcessService, RestartCeiling
from infra.local.supervisor import Supervisor

SERVE = "import os, pathlib, time; pathlib.Path(os.environ['READY']).touch(); time.sleep(60)"
BOUND_S = 30.0


class Stage:
    """Builds services from a line of Python each and steps a supervisor over them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 0.0
        self.services: list[ProcessService] = []
        self.supervisor = Supervisor([])

    def add(self, name: str, code: str, needs: tuple[str, ...] = (), is_task: bool = False) -> None:
        command = [sys.executable, "-I", "-S", "-c", code]
        self.services.append(ProcessService(name, command, self.directory, lambda ready: {"READY": str(ready)}, needs, is_task))

    def run_until(self, done: Callable[[], bool]) -> None:
        """Raises what a step raises, and fails after a bound."""
        deadline = time.monotonic() + BOUND_S
        while not done():
            assert time.monotonic() < deadline, self.states()
            self.supervisor.step(stop_timeout_s=5)
            time.sleep(0.005)

    def start(self) -> None:
        self.supervisor = Supervisor(self.services, now=lambda: self.now)
        self.run_until(lambda: self.supervisor.is_ready)

    def states(self) -> dict[str, State]:
        return {process.name: process.state for process in self.supervisor.processes}

    def restarts(self, name: str) -> int:
        return next(process.restarts for process in self.supervisor.processes if process.name == name)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.supervisor.stop(1)


def test_services_wait_for_what_they_need(stage: Stage, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stage.add("first", f"import time, pathlib\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n{SERVE}")
    stage.add("task", "pass", is_task=True)
    stage.add("second", SERVE, needs=("first", "task"))
    stage.supervisor = Supervisor(stage.services)
    stage.run_until(lambda: stage.states()["task"] is State.DONE)
    assert stage.states() == {"first": State.STARTING, "task": State.DONE, "second": State.WAITING}
    gate.touch()
    stage.run_until(lambda: stage.supervisor.is_ready)
    assert stage.states() == {"first": State.READY, "task": State.DONE, "second": State.READY}


def test_one_that_ends_before_it_serves_is_reported_with_its_last_words(stage: Stage) -> None:
    stage.add("broken", "print('no model here'); raise SystemExit(7)")
    with pytest.raises(CannotContinue, match=r"broken ended with exit code 7 before it was ready; end of .*broken\.log:\nno model here"):
        stage.start()


def test_an_impossible_setting_of_a_child_is_its_line_alone(stage: Stage) -> None:
    stage.add("broken", "print('noise'); print('broken: base.url=x: not a URL'); raise SystemExit(2)")
    with pytest.raises(BadSetting) as raised:
        stage.start()
    assert str(raised.value) == "broken: base.url=x: not a URL"


def test_a_killed_process_is_started_again(stage: Stage) -> None:
    stage.add("worker", SERVE)
    stage.start()
    stage.supervisor.service("worker").child.kill()
    assert not stage.supervisor.is_ready
    stage.run_until(lambda: stage.supervisor.is_ready)
    assert stage.restarts("worker") == 1


def test_a_restart_that_was_asked_for_is_in_order(stage: Stage) -> None:
    stage.add("worker", SERVE)
    stage.start()
    before = stage.supervisor.processes[0].pid
    stage.supervisor.ask_restart("worker")
    assert not stage.supervisor.is_ready
    stage.run_until(lambda: stage.supervisor.is_ready)
    assert stage.supervisor.processes[0].pid != before


def test_while_one_takes_its_time_to_stop_for_a_restart_the_others_are_looked_after(stage: Stage) -> None:
    stage.add("stubborn", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}")
    stage.add("worker", SERVE)
    stage.start()
    stage.supervisor.ask_restart("stubborn")
    stage.run_until(lambda: stage.supervisor.service("stubborn").child.is_running)
    stage.supervisor.service("worker").child.kill()
    stage.run_until(lambda: stage.restarts("worker") == 1 and stage.states()["worker"] is State.READY)
    assert stage.restarts("stubborn") == 0
    stage.now = 100.0
    stage.run_until(lambda: stage.supervisor.is_ready)
    assert stage.restarts("stubborn") == 1


def test_one_that_keeps_dying_makes_the_stack_fail(stage: Stage, tmp_path: Path) -> None:
    ill = tmp_path / "ill"
    serve_while_well = SERVE.replace("time.sleep(60)", f"\nwhile not pathlib.Path({str(ill)!r}).exists(): time.sleep(0.01)")
    stage.add("worker", f"{serve_while_well}\nprint('again'); raise SystemExit(1)")
    stage.start()
    ill.touch()
    with pytest.raises(CannotContinue, match=r"worker ended more than 5 times in 60 s, last with exit code 1; .*\n(again\n)*again"):
        stage.run_until(lambda: False)
    assert stage.restarts("worker") == 5


def test_the_ceiling_forgets_what_is_long_ago() -> None:
    ceiling = RestartCeiling(limit=2, window_s=60)
    assert [ceiling.allows(now) for now in (0, 50, 70, 80, 200)] == [True, True, True, False, True]


def test_stopping_ends_everything_within_its_bound(stage: Stage) -> None:
    stage.add("polite", SERVE)
    stage.add("stubborn", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}")
    stage.start()
    started = time.monotonic()
    stage.supervisor.stop(1.0)
    assert time.monotonic() - started < BOUND_S
    assert set(stage.states().values()) == {State.STOPPED}
    assert all(process.pid is None for process in stage.supervisor.processes)


def test_hurry_does_not_wait(stage: Stage) -> None:
    stage.add("stubborn", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}")
    stage.start()
    started = time.monotonic()
    stage.supervisor.stop(60.0, hurry=lambda: True)
    assert time.monotonic() - started < BOUND_S
