"""The supervisor on small real processes: order of start, restarts and their limit, stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.errors import BadSetting, CannotContinue
from infra.local.service import ProcessService, RestartLimit
from infra.local.stack_record import ProcessState
from infra.local.supervisor import Supervisor

SERVE = "import os, pathlib, time; pathlib.Path(os.environ['READY']).touch(); time.sleep(60)"
BOUND_S = 30.0


class SupervisorHarness:
    """Builds each service from a line of Python, and steps a supervisor over them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 0.0
        self.services: list[ProcessService] = []
        self.supervisor = Supervisor([])

    def add(self, name: str, code: str, needs: tuple[str, ...] = (), is_task: bool = False) -> None:
        command = [sys.executable, "-I", "-S", "-c", code]
        self.services.append(ProcessService(name, command, self.directory, lambda ready: {"READY": str(ready)}, needs, is_task))

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Step until `done` returns true. Raises what a step raises; fails after a bound."""
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, self.states()
            self.supervisor.step(stop_timeout_s=5)
            time.sleep(0.005)

    def start(self) -> None:
        self.supervisor = Supervisor(self.services, now=lambda: self.now)
        self.run_until(lambda: self.supervisor.is_ready)

    def states(self) -> dict[str, ProcessState]:
        return {process.name: process.state for process in self.supervisor.processes}

    def restarts(self, name: str) -> int:
        return next(process.restarts for process in self.supervisor.processes if process.name == name)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SupervisorHarness]:
    harness = SupervisorHarness(tmp_path)
    yield harness
    harness.supervisor.stop(1)


def test_a_service_waits_for_those_that_it_needs(harness: SupervisorHarness, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    harness.add("first", f"import time, pathlib\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n{SERVE}")
    harness.add("task", "pass", is_task=True)
    harness.add("second", SERVE, needs=("first", "task"))
    harness.supervisor = Supervisor(harness.services)
    harness.run_until(lambda: harness.states()["task"] is ProcessState.DONE)
    assert harness.states() == {"first": ProcessState.STARTING, "task": ProcessState.DONE, "second": ProcessState.WAITING}
    gate.touch()
    harness.run_until(lambda: harness.supervisor.is_ready)
    assert harness.states() == {"first": ProcessState.READY, "task": ProcessState.DONE, "second": ProcessState.READY}


def test_a_process_that_ends_before_it_is_ready_is_reported_with_the_end_of_its_log(harness: SupervisorHarness) -> None:
    harness.add("broken", "print('no model here'); raise SystemExit(7)")
    with pytest.raises(CannotContinue, match=r"broken ended with exit code 7 before it was ready; end of .*broken\.log:\nno model here"):
        harness.start()


def test_a_bad_setting_of_a_process_is_reported_as_its_one_line(harness: SupervisorHarness) -> None:
    harness.add("broken", "print('noise'); print('broken: base.url=x: not a URL'); raise SystemExit(2)")
    with pytest.raises(BadSetting) as raised:
        harness.start()
    assert str(raised.value) == "broken: base.url=x: not a URL"


def test_a_killed_process_is_started_again(harness: SupervisorHarness) -> None:
    harness.add("worker", SERVE)
    harness.start()
    harness.supervisor.service("worker").child.kill()
    assert not harness.supervisor.is_ready
    harness.run_until(lambda: harness.supervisor.is_ready)
    assert harness.restarts("worker") == 1


def test_a_requested_restart_starts_a_new_process(harness: SupervisorHarness) -> None:
    harness.add("worker", SERVE)
    harness.start()
    before = harness.supervisor.processes[0].pid
    harness.supervisor.request_restart("worker")
    assert not harness.supervisor.is_ready
    harness.run_until(lambda: harness.supervisor.is_ready)
    assert harness.supervisor.processes[0].pid != before


def test_other_processes_are_supervised_while_one_stops_for_a_restart(harness: SupervisorHarness) -> None:
    harness.add("stubborn", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}")
    harness.add("worker", SERVE)
    harness.start()
    harness.supervisor.request_restart("stubborn")
    harness.run_until(lambda: harness.supervisor.service("stubborn").child.is_running)
    harness.supervisor.service("worker").child.kill()
    harness.run_until(lambda: harness.restarts("worker") == 1 and harness.states()["worker"] is ProcessState.READY)
    assert harness.restarts("stubborn") == 0
    harness.now = 100.0
    harness.run_until(lambda: harness.supervisor.is_ready)
    assert harness.restarts("stubborn") == 1


def test_a_process_that_ends_too_often_makes_the_stack_fail(harness: SupervisorHarness, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    serve_until_broken = SERVE.replace("time.sleep(60)", f"\nwhile not pathlib.Path({str(broken)!r}).exists(): time.sleep(0.01)")
    harness.add("worker", f"{serve_until_broken}\nprint('again'); raise SystemExit(1)")
    harness.start()
    broken.touch()
    with pytest.raises(CannotContinue, match=r"worker ended more than 5 times in 60 s, last with exit code 1; .*\n(again\n)*again"):
        harness.run_until(lambda: False)
    assert harness.restarts("worker") == 5


def test_old_restarts_do_not_count() -> None:
    restarts = RestartLimit(limit=2, window_s=60)
    assert [restarts.allows(now) for now in (0, 50, 70, 80, 200)] == [True, True, True, False, True]


def test_stopping_ends_all_processes_within_its_bound(harness: SupervisorHarness) -> None:
    harness.add("polite", SERVE)
    harness.add("stubborn", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}")
    harness.start()
    started = time.monotonic()
    harness.supervisor.stop(1.0)
    assert time.monotonic() - started < BOUND_S
    assert set(harness.states().values()) == {ProcessState.STOPPED}
    assert all(process.pid is None for process in harness.supervisor.processes)


def test_kill_now_does_not_wait(harness: SupervisorHarness) -> None:
    harness.add("stubborn", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}")
    harness.start()
    started = time.monotonic()
    harness.supervisor.stop(60.0, kill_now=lambda: True)
    assert time.monotonic() - started < BOUND_S
