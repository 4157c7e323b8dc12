"""The supervisor on small real processes: order of start, restarts and their pauses, stop. Its clock is moved by hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.errors import BadSetting, CannotContinue
from infra.local.service import ProcessService
from infra.local.stack_record import ProcessRecord, ProcessState
from infra.local.supervisor import FAILED_RESTARTS, FAILED_STARTS, Supervisor
from infra.process.lifecycle import report_blocked
from infra.settings import load

SERVE = "import json, os, pathlib, time; pathlib.Path(os.environ['READY']).write_text(str(os.getpid())); time.sleep(60)"
BOUND_S = 30.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


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

    def start_until_over(self) -> None:
        self.supervisor = Supervisor(self.services, now=lambda: self.now)
        self.run_past_pauses(lambda: self.supervisor.start_is_over)

    def run_past_pauses(self, condition: Callable[[], bool]) -> None:
        """`run_until`, with a clock that moves whenever a process is down."""

        def holds() -> bool:
            self.now += sum(state is ProcessState.DOWN for state in self.states().values())
            return condition()

        self.run_until(holds)

    def end(self, name: str) -> None:
        """The process ends by itself, with exit code 1 and a line in its log."""
        (self.directory / f"end-{name}").touch()
        self.run_until(lambda: not self.supervisor.service(name).child.is_running)
        (self.directory / f"end-{name}").unlink()
        self.supervisor.step(stop_timeout_s=5)

    def states(self) -> dict[str, ProcessState]:
        return {process.name: process.state for process in self.supervisor.processes}

    def record(self, name: str) -> ProcessRecord:
        return next(process for process in self.supervisor.processes if process.name == name)

    def restarts(self, name: str) -> int:
        return self.record(name).restarts


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


def test_a_process_that_cannot_start_is_failing_and_the_others_serve(harness: SupervisorHarness) -> None:
    harness.add("broken", "print('no model here'); raise SystemExit(7)")
    harness.add("dependent", SERVE, needs=("broken",))
    harness.add("worker", SERVE)
    harness.start_until_over()
    assert (harness.states()["worker"], harness.states()["dependent"]) == (ProcessState.READY, ProcessState.WAITING)
    assert harness.record("broken").exit_code == 7 and harness.record("broken").why == "no model here"
    with pytest.raises(CannotContinue, match=r"broken failed \d+ times in a row, last with exit code 7: no model here; end of .*broken\.log:\n"):
        harness.supervisor.check()
    assert harness.record("broken").restarts >= FAILED_STARTS - 1  # more, if the others take long to serve
    harness.supervisor.check("worker")
    assert harness.record("dependent").problem(NOW) == f"dependent waits for broken; log: {harness.directory}/logs/dependent.log"


def test_a_process_that_cannot_start_serves_once_its_cause_is_gone(harness: SupervisorHarness, tmp_path: Path) -> None:
    cause = tmp_path / "cause"
    cause.touch()
    harness.add("worker", f"import pathlib\nif pathlib.Path({str(cause)!r}).exists(): raise SystemExit('a cause')\n{SERVE}")
    harness.start_until_over()
    cause.unlink()
    harness.run_past_pauses(lambda: harness.supervisor.is_ready)
    harness.supervisor.check()


def test_a_bad_setting_of_a_process_is_reported_as_its_one_line(harness: SupervisorHarness) -> None:
    harness.add("broken", "print('noise'); print('broken: base.url=x: not a URL'); raise SystemExit(2)")
    harness.supervisor = Supervisor(harness.services, now=lambda: harness.now)
    harness.run_until(lambda: harness.states()["broken"] is ProcessState.DOWN or harness.restarts("broken") > 0)
    with pytest.raises(BadSetting) as raised:
        harness.supervisor.check_settings()
    assert str(raised.value) == "broken: base.url=x: not a URL"


def test_a_setting_refused_after_service_is_a_failure_of_that_process(harness: SupervisorHarness, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    harness.add("worker", f"import pathlib, sys\nif pathlib.Path({str(changed)!r}).exists(): print('worker: bad value'); sys.exit(2)\n{SERVE}")
    harness.start()
    changed.touch()
    harness.supervisor.service("worker").child.kill()
    harness.run_past_pauses(lambda: harness.record("worker").exit_code == 2)
    harness.supervisor.check_settings()
    assert harness.record("worker").why == "worker: bad value"


@pytest.mark.parametrize("error", [CannotContinue("port 1 is taken"), OSError(28, "No space left on device"), KeyError("x")])
def test_a_service_that_cannot_be_started_is_down_and_stops_no_other(harness: SupervisorHarness, error: Exception) -> None:
    harness.add("worker", SERVE)

    def environment(ready: Path) -> dict[str, str]:
        raise error

    harness.services.append(ProcessService("broken", ["true"], harness.directory, environment))
    harness.start_until_over()
    record = harness.record("broken")
    assert (record.state, record.exit_code, harness.states()["worker"]) == (ProcessState.DOWN, None, ProcessState.READY)
    assert record.why is not None and (type(error).__name__ in record.why if isinstance(error, KeyError) else record.why == str(error))


def test_a_requested_restart_that_fails_has_its_own_reason(harness: SupervisorHarness) -> None:
    harness.add("worker", SERVE)
    harness.start()
    log = harness.record("worker").log
    log.rename(log.with_suffix(".old"))
    log.mkdir()
    harness.supervisor.request_restart("worker")
    harness.run_until(lambda: harness.states()["worker"] is ProcessState.DOWN)
    assert (harness.record("worker").exit_code, "Is a directory" in (harness.record("worker").why or "")) == (None, True)
    log.rmdir()
    harness.run_past_pauses(lambda: harness.supervisor.is_ready)


def test_a_service_whose_readiness_cannot_be_asked_is_started_again(harness: SupervisorHarness) -> None:
    class Unreachable(ProcessService):
        fails = True

        def is_ready(self) -> bool:
            if self.fails:
                raise CannotContinue("the broker did not create a topic")
            return super().is_ready()

    service = Unreachable("broker", [sys.executable, "-I", "-S", "-c", SERVE], harness.directory, lambda ready: {"READY": str(ready)})
    harness.services.append(service)
    harness.start_until_over()
    assert harness.record("broker").why == "the broker did not create a topic"
    service.fails = False
    harness.run_past_pauses(lambda: harness.supervisor.is_ready)


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


def serve_until_ended(harness: SupervisorHarness, name: str) -> str:
    """Code of a process that serves until `harness.end(name)`."""
    wait = f"\nwhile not pathlib.Path({str(harness.directory / f'end-{name}')!r}).exists(): time.sleep(0.01)"
    why = "\nprint(json.dumps({'level': 'ERROR', 'text': 'process stops', 'reason': 'queries-0 at offset 5'})); raise SystemExit(1)"
    return SERVE.replace("time.sleep(60)", wait + why)


def test_a_process_that_keeps_ending_gets_growing_pauses_and_stops_no_other(harness: SupervisorHarness) -> None:
    harness.add("worker", serve_until_ended(harness, "worker"))
    harness.add("other", SERVE)
    harness.start()
    other = harness.record("other").pid
    pauses = []
    for number in range(FAILED_RESTARTS):
        harness.end("worker")
        began = harness.now
        while harness.states()["worker"] is ProcessState.DOWN:
            harness.now += 1
            harness.supervisor.step(stop_timeout_s=5)
        pauses.append(harness.now - began)
        if number < FAILED_RESTARTS - 1:
            harness.run_until(lambda: harness.supervisor.is_ready)
            harness.supervisor.check()
    assert pauses == [0, 1, 2, 4, 8, 16]
    assert harness.record("other").pid == other and harness.states()["other"] is ProcessState.READY
    with pytest.raises(CannotContinue, match=r"worker failed 6 times in a row, last with exit code 1: process stops: queries-0 at offset 5; end of "):
        harness.supervisor.check()


def test_a_process_that_is_down_says_why_and_when_it_starts_again(harness: SupervisorHarness) -> None:
    harness.add("worker", serve_until_ended(harness, "worker"))
    harness.start()
    harness.end("worker")
    harness.run_until(lambda: harness.supervisor.is_ready)
    harness.end("worker")
    record = harness.record("worker")
    assert (record.state, record.pid, record.exit_code, record.restarts) == (ProcessState.DOWN, None, 1, 1)
    assert record.next_start_at is not None
    text = record.problem(record.next_start_at - timedelta(seconds=1))
    why = "exit code 1: process stops: queries-0 at offset 5"
    assert text == f"worker is down, {why}; starts again in 1 s; log: {harness.directory}/logs/worker.log"


def test_a_process_that_is_killed_on_request_does_not_count_as_failing(harness: SupervisorHarness) -> None:
    harness.add("worker", SERVE)
    harness.start()
    for _ in range(FAILED_RESTARTS + 1):
        harness.supervisor.kill("worker")
        harness.run_until(lambda: harness.supervisor.is_ready)
    harness.supervisor.check()
    assert harness.restarts("worker") == FAILED_RESTARTS + 1


def test_a_process_waits_while_the_one_that_it_needs_is_down(harness: SupervisorHarness) -> None:
    harness.add("broker", serve_until_ended(harness, "broker"))
    harness.add("worker", SERVE, needs=("broker",))
    harness.start()
    harness.end("broker")
    harness.run_until(lambda: harness.supervisor.is_ready)
    harness.end("broker")
    assert harness.states() == {"broker": ProcessState.DOWN, "worker": ProcessState.READY}
    harness.supervisor.service("worker").child.kill()
    harness.run_until(lambda: harness.states()["worker"] is ProcessState.WAITING)
    harness.run_past_pauses(lambda: harness.supervisor.is_ready)
    assert (harness.restarts("broker"), harness.restarts("worker")) == (2, 1)


def test_a_blocked_process_says_why(harness: SupervisorHarness) -> None:
    harness.add("worker", SERVE)
    harness.start()
    report_blocked(load(ready_file=harness.directory / "run" / "worker.ready"), "the base endpoint answers 401")
    record = harness.record("worker")
    assert (record.state, record.is_serving) == (ProcessState.READY, False)
    assert record.problem(NOW) == f"worker makes no progress: the base endpoint answers 401; log: {harness.directory}/logs/worker.log"
    harness.supervisor.request_restart("worker")
    harness.run_until(lambda: harness.restarts("worker") == 1 and harness.supervisor.is_ready)
    assert harness.record("worker").problem(NOW) is None


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
