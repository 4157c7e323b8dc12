"""Injects the planned faults, and records the state changes of the processes."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from infra.local import Stack
from infra.local.stack_record import ProcessRecord, ProcessState
from lab.chaos.plan import BASE_LINK, BROKER_LINK, Fault, FaultKind, FaultPlan
from lab.chaos.proxy import Delay, Hold, Mode, PassThrough, Proxy, RefuseRequests, ResetConnections


@dataclass(frozen=True)
class PerformedFault:
    """A fault with its real times. `pid`: the process that was hit."""

    fault: Fault
    began_s: float
    ended_s: float
    pid: int | None


class FaultInjector:
    """Begins and ends faults at their times. After `end_all`, no process is paused and no connection is held."""

    def __init__(self, plan: FaultPlan, stack: Stack, links: dict[str, Proxy]) -> None:
        self._stack = stack
        self._links = links
        self._numbers = count()
        self._planned: list[tuple[float, int, Fault]] = [(fault.at_s, next(self._numbers), fault) for fault in plan.faults]
        heapq.heapify(self._planned)
        self._active: list[tuple[float, int, Fault, float, int | None]] = []
        self._owner: dict[str, Fault] = {}  # the latest fault on each link or process
        self.done: list[PerformedFault] = []

    @property
    def is_over(self) -> bool:
        return not self._planned and not self._active

    def apply_due(self, now_s: float) -> None:
        """Ends and begins the faults that are due."""
        while self._active and self._active[0][0] <= now_s:
            self._end(now_s)
        while self._planned and self._planned[0][0] <= now_s:
            _, _, fault = heapq.heappop(self._planned)
            pid = self._begin(fault)
            heapq.heappush(self._active, (now_s + fault.for_s, next(self._numbers), fault, now_s, pid))
            self.apply_due(now_s)

    def end_all(self, now_s: float) -> None:
        self._planned.clear()
        while self._active:
            self._end(now_s)

    def _begin(self, fault: Fault) -> int | None:
        """Returns the pid of the process, or None for a link."""
        self._owner[fault.target] = fault
        if fault.target in self._links:
            self._links[fault.target].set(_mode(fault))
            return None
        pid = next(process.pid for process in self._stack.processes if process.name == fault.target)
        if fault.kind is FaultKind.KILL:
            self._stack.kill(fault.target)
        elif fault.kind is FaultKind.PAUSE:
            self._stack.pause(fault.target)
        else:
            self._stack.restart(fault.target, wait=False)
        return pid

    def _end(self, now_s: float) -> None:
        """Ends the fault, but not a later one on the same target."""
        _, _, fault, began_s, pid = heapq.heappop(self._active)
        if self._owner.get(fault.target) is fault:
            if fault.target in self._links:
                self._links[fault.target].set(PassThrough())
            elif fault.kind is FaultKind.PAUSE:
                self._stack.resume(fault.target)
        self.done.append(PerformedFault(fault, began_s, now_s, pid))


def _mode(fault: Fault) -> Mode:
    if fault.kind in (FaultKind.DELAY, FaultKind.SLOW_BASE):
        return Delay(fault.delay_s)
    if fault.kind is FaultKind.HOLD:
        return Hold()
    if fault.kind in (FaultKind.FAILING_BASE, FaultKind.REFUSING_BASE) and fault.status:
        return RefuseRequests(fault.status)
    return ResetConnections()


def links(broker: Proxy, base: Proxy) -> dict[str, Proxy]:
    return {BROKER_LINK: broker, BASE_LINK: base}


@dataclass(frozen=True)
class ProcessChange:
    """The state of a process from `at_s` on, by its supervisor."""

    at_s: float
    name: str
    state: ProcessState
    restarts: int


class ProcessLog:
    """The state changes of the stack's processes, as seen by calls of `poll`."""

    def __init__(self) -> None:
        self.changes: list[ProcessChange] = []
        self._last: dict[str, tuple[ProcessState, int]] = {}

    def poll(self, processes: Sequence[ProcessRecord], now_s: float) -> None:
        for process in processes:
            state = ProcessState.STOPPED if process.state is ProcessState.READY and process.pid is None else process.state
            if self._last.get(process.name) != (state, process.restarts):
                self._last[process.name] = (state, process.restarts)
                self.changes.append(ProcessChange(now_s, process.name, state, process.restarts))

    def recoveries_s(self) -> dict[str, list[float]]:
        """Durations from the end of service to its return, by process."""
        served: set[str] = set()
        down: dict[str, float] = {}
        recoveries: dict[str, list[float]] = {}
        for change in self.changes:
            if change.state is ProcessState.READY:
                served.add(change.name)
                if change.name in down:
                    recoveries.setdefault(change.name, []).append(round(change.at_s - down.pop(change.name), 2))
            elif change.name in served:
                down.setdefault(change.name, change.at_s)
        return recoveries

    def unrequested_ends(self, done: Sequence[PerformedFault]) -> dict[str, int]:
        """Number of restarts without a kill or a requested restart, by process."""
        starts = Counter({name: restarts for name, (_, restarts) in self._last.items()})
        requested = Counter(performed.fault.target for performed in done if performed.fault.kind in (FaultKind.KILL, FaultKind.RESTART))
        return {name: starts[name] - requested[name] for name in sorted(starts) if starts[name] > requested[name]}
