"""Starts services in the order of their needs, restarts those that end, after growing pauses, and stops all.

A service that ends or cannot be started is down; the others run on. It has no thread: its owner calls `step` often, always from the same long-lived
thread (see `infra.process.parent_death`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from infra.errors import BadSetting, CannotContinue, RetouchError, type_and_line
from infra.local.restart_pauses import RestartPauses
from infra.local.service import StackService
from infra.local.stack_record import ProcessRecord, ProcessState
from infra.process.lifecycle import USAGE, reason_line

log = logging.getLogger(__name__)

#: Services that others depend on: they are stopped last, and get this share of the time.
STOPPED_LAST = ("broker",)
LAST_SHARE = 0.3
#: A service is failing after this many ends in a row: one that has never served, and one that has.
FAILED_STARTS, FAILED_RESTARTS = 3, 6


@dataclass
class SupervisedService:
    """A service and its state."""

    service: StackService
    state: ProcessState = ProcessState.WAITING
    was_started: bool = False
    has_served: bool = False
    restarts: int = 0
    restart_requested: bool = False
    kill_requested: bool = False
    kill_at: float | None = None  # while it stops for a restart
    pauses: RestartPauses = field(default_factory=RestartPauses)
    start_at: float = 0.0  # while it is down
    next_start_at: datetime | None = None  # the same in wall-clock time
    exit_code: int | None = None  # of its last end
    why: str | None = None
    refused_setting: bool = False

    @property
    def is_serving(self) -> bool:
        running = self.state is ProcessState.READY and self.service.child.is_running
        return (running or self.state is ProcessState.DONE) and not self.restart_requested

    @property
    def is_failing(self) -> bool:
        """Whether it ended several times in a row without serving for long in between."""
        return self.pauses.ends >= (FAILED_RESTARTS if self.has_served else FAILED_STARTS)


class Supervisor:
    """Supervises the processes of the services."""

    def __init__(self, services: Sequence[StackService], now: Callable[[], float] = time.monotonic) -> None:
        self._watched = {service.name: SupervisedService(service) for service in services}
        self._now = now

    @property
    def is_ready(self) -> bool:
        """Whether every service serves now; one that has just ended does not."""
        return all(w.is_serving for w in self._watched.values())

    @property
    def processes(self) -> tuple[ProcessRecord, ...]:
        """The processes in the order in which they are started."""
        return tuple(self._record(watched) for watched in self._watched.values())

    @property
    def start_is_over(self) -> bool:
        """Whether every service serves, is failing, or waits for a failing one."""
        return all(w.is_serving or w.is_failing or self._waits_for_failing(w) for w in self._watched.values())

    def service(self, name: str) -> StackService:
        """Raises KeyError for an unknown name."""
        return self._watched[name].service

    def request_restart(self, name: str) -> None:
        """The next steps stop the process within its bound and start it again, and still supervise the others. Any thread may call it."""
        self._watched[name].restart_requested = True

    def kill(self, name: str) -> None:
        """SIGKILL to the process and its children. It is started again at once, and does not count as failing. Raises KeyError for an unknown name."""
        watched = self._watched[name]
        watched.kill_requested = watched.service.child.is_running
        watched.service.child.kill()

    def step(self, stop_timeout_s: float) -> None:
        """Start services whose needs are met, and handle those that are ready or have ended.

        An error of one service counts as an end of that service, and stops no other. Blocks only while the broker formats its data and gets its topics.
        """
        for watched in self._watched.values():
            try:
                self._step(watched, stop_timeout_s)
            except (RetouchError, OSError) as error:
                self._handle_error(watched, str(error), isinstance(error, BadSetting))
            except Exception as error:  # an error of our code for one service must not end the others
                log.exception("the supervisor failed for one process", extra={"child": watched.service.name})
                self._handle_error(watched, type_and_line(error))

    def check(self, *names: str) -> None:
        """Raises CannotContinue if one of these services, or of all, is failing; with the reason, and the exit code and end of the log of a process."""
        for watched in self._watched.values():
            if watched.is_failing and (not names or watched.service.name in names):
                child, failed = watched.service.child, f"{watched.service.name} failed {watched.pauses.ends} times in a row, last"
                if watched.exit_code is None:  # it could not be started
                    raise CannotContinue(f"{failed}: {watched.why}")
                raise CannotContinue(f"{failed} with exit code {watched.exit_code}: {watched.why}; end of {child.log}:\n{child.last_lines()}")

    def check_settings(self) -> None:
        """Raises BadSetting if a service refuses a setting and has never served."""
        for watched in self._watched.values():
            if watched.refused_setting and not watched.has_served:
                raise BadSetting(watched.why or "")

    def stop(self, timeout_s: float, kill_now: Callable[[], bool] = lambda: False) -> None:
        """Send SIGTERM in reverse order, then SIGKILL when the time is over or `kill_now` returns true."""
        watched = list(reversed(self._watched.values()))
        stopped_last = [w for w in watched if w.service.name in STOPPED_LAST]
        self._stop_group([w for w in watched if w not in stopped_last], timeout_s * (1 - LAST_SHARE), kill_now)
        self._stop_group(stopped_last, timeout_s * LAST_SHARE, kill_now)

    def _stop_group(self, group: Sequence[SupervisedService], timeout_s: float, kill_now: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout_s
        for watched in group:
            watched.service.child.terminate()
        for watched in group:
            while not watched.service.child.wait(0.1) and time.monotonic() < deadline and not kill_now():
                pass
            if watched.service.child.is_running:
                log.warning("process did not stop in time and is killed", extra={"child": watched.service.name})
            watched.service.child.kill()
            watched.state = ProcessState.STOPPED

    def _step(self, watched: SupervisedService, stop_timeout_s: float) -> None:
        if watched.restart_requested:
            self._restart(watched, stop_timeout_s)
            return
        if watched.state in (ProcessState.STARTING, ProcessState.READY):
            self._check(watched)
        if watched.state is ProcessState.DOWN and self._now() >= watched.start_at:
            if self._absent_needs(watched, ProcessState.DOWN, ProcessState.WAITING):
                watched.state = ProcessState.WAITING
            else:  # it may start together with those that it needs
                self._start(watched)
        elif watched.state is ProcessState.WAITING and not self._unmet_needs(watched):
            self._start(watched)

    def _unmet_needs(self, watched: SupervisedService) -> tuple[str, ...]:
        return self._absent_needs(watched, *(set(ProcessState) - {ProcessState.READY, ProcessState.DONE}))

    def _absent_needs(self, watched: SupervisedService, *states: ProcessState) -> tuple[str, ...]:
        """Names of the needed services in one of these states."""
        return tuple(sorted(name for name in watched.service.needs if name in self._watched and self._watched[name].state in states))

    def _waits_for_failing(self, watched: SupervisedService) -> bool:
        needed = [self._watched[name] for name in self._unmet_needs(watched)]
        return watched.state is ProcessState.WAITING and any(need.is_failing or self._waits_for_failing(need) for need in needed)

    def _start(self, watched: SupervisedService) -> None:
        watched.restarts += watched.was_started
        watched.was_started = True
        watched.service.start()
        watched.state, watched.next_start_at = ProcessState.STARTING, None

    def _check(self, watched: SupervisedService) -> None:
        service = watched.service
        if not service.child.is_running:
            self._handle_end(watched)
        elif watched.state is ProcessState.READY:
            watched.pauses.serves(self._now())
        elif not service.is_task and service.is_ready():
            watched.state = ProcessState.READY
            watched.has_served = True

    def _restart(self, watched: SupervisedService, stop_timeout_s: float) -> None:
        child = watched.service.child
        if watched.state is ProcessState.WAITING:  # it starts as soon as it can
            watched.restart_requested = False
        elif watched.kill_at is None:
            child.terminate()
            watched.kill_at = self._now() + stop_timeout_s
        elif not child.is_running or self._now() >= watched.kill_at:
            watched.restart_requested, watched.kill_at = False, None
            child.kill()  # ends processes that it left running
            watched.pauses.ended_on_request()
            watched.state = ProcessState.DOWN  # if the start fails, that is the reason, not the end before it
            self._start(watched)

    def _handle_end(self, watched: SupervisedService) -> None:
        child = watched.service.child
        child.kill()  # ends processes that it left running
        if watched.service.is_task and child.exit_code == 0:
            watched.state, watched.has_served = ProcessState.DONE, True
        else:
            self._set_down(watched, child.exit_code, child.why_ended(), child.exit_code == USAGE)

    def _handle_error(self, watched: SupervisedService, error: str, refused_setting: bool = False) -> None:
        """Starting or checking the service failed. If its process has ended, the reason comes from the process's own log."""
        child = watched.service.child
        if watched.state in (ProcessState.STARTING, ProcessState.READY) and not child.is_running:
            self._handle_end(watched)
        else:
            child.kill()
            self._set_down(watched, None, reason_line(error), refused_setting)

    def _set_down(self, watched: SupervisedService, exit_code: int | None, why: str, refused_setting: bool) -> None:
        if watched.kill_requested:
            watched.pauses.ended_on_request()
            pause_s = 0.0
        else:
            pause_s = watched.pauses.ended(self._now())
        watched.state, watched.kill_requested = ProcessState.DOWN, False
        watched.exit_code, watched.why, watched.refused_setting = exit_code, why, refused_setting
        watched.start_at, watched.next_start_at = self._now() + pause_s, datetime.now(UTC) + timedelta(seconds=pause_s)
        fields = {"child": watched.service.name, "exit_code": exit_code, "reason": why, "pause_s": pause_s}
        log.warning("process ended and is started again", extra=fields)

    def _record(self, watched: SupervisedService) -> ProcessRecord:
        child = watched.service.child
        is_running = child.is_running
        return ProcessRecord(
            name=watched.service.name,
            state=watched.state,
            pid=child.pid if is_running else None,
            restarts=watched.restarts,
            log=child.log,
            waits_for=self._unmet_needs(watched) if watched.state is ProcessState.WAITING else (),
            exit_code=watched.exit_code,
            why=watched.why,
            next_start_at=watched.next_start_at if watched.state is ProcessState.DOWN else None,
            blocked=watched.service.blocked() if is_running else None,
        )
