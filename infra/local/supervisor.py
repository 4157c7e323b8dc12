"""Starts services in the order of their needs, starts again what ends unasked, stops everything.

It has no thread and no clock of its own: whoever owns it calls `step` often, always from the same long-lived thread (see `infra.process.parent_death`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from infra.errors import BadSetting, CannotContinue
from infra.local.record import ProcessRecord, State
from infra.local.service import RestartCeiling, Service
from infra.process.lifecycle import USAGE

log = logging.getLogger(__name__)

#: The services that others rest on are stopped last, and get this much of the time for stopping.
LAST_TO_STOP = ("broker",)
LAST_SHARE = 0.3


@dataclass
class Watched:
    """A service and what the supervisor knows of it."""

    service: Service
    state: State = State.WAITING
    restarts: int = 0
    has_served: bool = False
    restart_wanted: bool = False
    kill_at: float | None = None  # while it is being stopped for a restart
    ceiling: RestartCeiling = field(default_factory=RestartCeiling)

    @property
    def serves(self) -> bool:
        running = self.state is State.READY and self.service.child.is_running
        return (running or self.state is State.DONE) and not self.restart_wanted


class Supervisor:
    """Owns the services' processes."""

    def __init__(self, services: Sequence[Service], now: Callable[[], float] = time.monotonic) -> None:
        self._watched = {service.name: Watched(service) for service in services}
        self._now = now

    @property
    def is_ready(self) -> bool:
        """Whether every service serves at this moment; one that just died does not."""
        return all(w.serves for w in self._watched.values())

    @property
    def processes(self) -> tuple[ProcessRecord, ...]:
        """In the order of starting."""
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

    def service(self, name: str) -> Service:
        """Raises KeyError for an unknown name."""
        return self._watched[name].service

    def ask_restart(self, name: str) -> None:
        """The next steps stop the process within its bound and start it again; the others are looked after meanwhile. May be called from any thread."""
        self._watched[name].restart_wanted = True

    def step(self, stop_timeout_s: float) -> None:
        """Start what may start, notice what is ready or has ended. Blocks only for the broker's format.

        Raises CannotContinue, with exit code and the end of the log, for a process that ends before it served or too often.
        """
        for watched in self._watched.values():
            if watched.restart_wanted:
                self._restart(watched, stop_timeout_s)
            elif watched.state is State.WAITING and self._needs_met(watched):
                watched.service.start()
                watched.state = State.STARTING
            elif watched.state in (State.STARTING, State.READY):
                self._look_at(watched)

    def stop(self, timeout_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM in reverse order, then SIGKILL to what is left when its time is over, or as soon as `hurry` says so."""
        watched = list(reversed(self._watched.values()))
        last = [w for w in watched if w.service.name in LAST_TO_STOP]
        self._stop_group([w for w in watched if w not in last], timeout_s * (1 - LAST_SHARE), hurry)
        self._stop_group(last, timeout_s * LAST_SHARE, hurry)

    def _stop_group(self, group: Sequence[Watched], timeout_s: float, hurry: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout_s
        for watched in group:
            watched.service.child.terminate()
        for watched in group:
            while not watched.service.child.wait(0.1) and time.monotonic() < deadline and not hurry():
                pass
            if watched.service.child.is_running:
                log.warning("process did not stop in time and is killed", extra={"child": watched.service.name})
            watched.service.child.kill()
            watched.state = State.STOPPED

    def _needs_met(self, watched: Watched) -> bool:
        return all(self._watched[name].state in (State.READY, State.DONE) for name in watched.service.needs if name in self._watched)

    def _look_at(self, watched: Watched) -> None:
        service = watched.service
        if not service.child.is_running:
            self._ended(watched)
        elif watched.state is State.STARTING and not service.is_task and service.is_ready():
            watched.state = State.READY
            watched.has_served = True

    def _restart(self, watched: Watched, stop_timeout_s: float) -> None:
        child = watched.service.child
        if watched.kill_at is None:
            child.terminate()
            watched.kill_at = self._now() + stop_timeout_s
        elif not child.is_running or self._now() >= watched.kill_at:
            self._start_again(watched)
            watched.restart_wanted, watched.kill_at = False, None

    def _ended(self, watched: Watched) -> None:
        child = watched.service.child
        if watched.service.is_task and child.exit_code == 0:
            watched.state = State.DONE
            return
        if child.exit_code == USAGE:
            raise BadSetting(child.last_lines(1))
        if not watched.has_served:
            raise CannotContinue(f"{child.name} ended with exit code {child.exit_code} before it was ready; end of {child.log}:\n{child.last_lines()}")
        if not watched.ceiling.allows(self._now()):
            often = f"more than {watched.ceiling.limit} times in {watched.ceiling.window_s:.0f} s"
            raise CannotContinue(f"{child.name} ended {often}, last with exit code {child.exit_code}; end of {child.log}:\n{child.last_lines()}")
        log.warning("process ended and is started again", extra={"child": child.name, "exit_code": child.exit_code})
        self._start_again(watched)

    def _start_again(self, watched: Watched) -> None:
        watched.service.child.kill()  # what the process itself left running
        watched.service.start()
        watched.state = State.STARTING
        watched.restarts += 1
