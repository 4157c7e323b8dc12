"""Starts services in the order of their needs, restarts those that end unexpectedly, and stops all.

It has no thread: its owner calls `step` often, always from the same long-lived thread (see `infra.process.parent_death`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from infra.errors import BadSetting, CannotContinue
from infra.local.service import RestartLimit, StackService
from infra.local.stack_record import ProcessRecord, ProcessState
from infra.process.lifecycle import USAGE

log = logging.getLogger(__name__)

#: Services that others depend on: they are stopped last, and get this share of the time.
STOPPED_LAST = ("broker",)
LAST_SHARE = 0.3


@dataclass
class SupervisedService:
    """A service and its state."""

    service: StackService
    state: ProcessState = ProcessState.WAITING
    restarts: int = 0
    has_served: bool = False
    restart_requested: bool = False
    kill_at: float | None = None  # while it stops for a restart
    restart_limit: RestartLimit = field(default_factory=RestartLimit)

    @property
    def is_serving(self) -> bool:
        running = self.state is ProcessState.READY and self.service.child.is_running
        return (running or self.state is ProcessState.DONE) and not self.restart_requested


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
        return tuple(
            ProcessRecord(
                name=w.service.name,
                state=w.state,
                pid=w.service.child.pid if w.service.child.is_running else None,
                restarts=w.restarts,
                log=w.service.child.log,
            )
            for w in self._watched.values()
        )

    def service(self, name: str) -> StackService:
        """Raises KeyError for an unknown name."""
        return self._watched[name].service

    def request_restart(self, name: str) -> None:
        """The next steps stop the process within its bound and start it again, and still supervise the others. Any thread may call it."""
        self._watched[name].restart_requested = True

    def step(self, stop_timeout_s: float) -> None:
        """Start services whose needs are met, and handle those that are ready or have ended. Blocks only while the broker formats its data.

        Raises CannotContinue, with exit code and the end of the log, if a process ends before it was ready, or too often.
        """
        for watched in self._watched.values():
            if watched.restart_requested:
                self._restart(watched, stop_timeout_s)
            elif watched.state is ProcessState.WAITING and self._needs_met(watched):
                watched.service.start()
                watched.state = ProcessState.STARTING
            elif watched.state in (ProcessState.STARTING, ProcessState.READY):
                self._check(watched)

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

    def _needs_met(self, watched: SupervisedService) -> bool:
        return all(self._watched[name].state in (ProcessState.READY, ProcessState.DONE) for name in watched.service.needs if name in self._watched)

    def _check(self, watched: SupervisedService) -> None:
        service = watched.service
        if not service.child.is_running:
            self._handle_end(watched)
        elif watched.state is ProcessState.STARTING and not service.is_task and service.is_ready():
            watched.state = ProcessState.READY
            watched.has_served = True

    def _restart(self, watched: SupervisedService, stop_timeout_s: float) -> None:
        child = watched.service.child
        if watched.kill_at is None:
            child.terminate()
            watched.kill_at = self._now() + stop_timeout_s
        elif not child.is_running or self._now() >= watched.kill_at:
            self._start_again(watched)
            watched.restart_requested, watched.kill_at = False, None

    def _handle_end(self, watched: SupervisedService) -> None:
        child = watched.service.child
        if watched.service.is_task and child.exit_code == 0:
            watched.state = ProcessState.DONE
            return
        if child.exit_code == USAGE:
            raise BadSetting(child.last_lines(1))
        if not watched.has_served:
            raise CannotContinue(f"{child.name} ended with exit code {child.exit_code} before it was ready; end of {child.log}:\n{child.last_lines()}")
        if not watched.restart_limit.allows(self._now()):
            rate = f"more than {watched.restart_limit.limit} times in {watched.restart_limit.window_s:.0f} s"
            raise CannotContinue(f"{child.name} ended {rate}, last with exit code {child.exit_code}; end of {child.log}:\n{child.last_lines()}")
        log.warning("process ended and is started again", extra={"child": child.name, "exit_code": child.exit_code})
        self._start_again(watched)

    def _start_again(self, watched: SupervisedService) -> None:
        watched.service.child.kill()  # ends processes that it left running
        watched.service.start()
        watched.state = ProcessState.STARTING
        watched.restarts += 1
