"""Hurting the system as the plan says, and a diary of what was done and of what the processes did."""

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
    """A fault as it happened. `pid` of the process it hit."""

    fault: Fault
    began_s: float
    ended_s: float
    pid: int | None


class FaultInjector:
    """Begins and ends faults when their time has come. `end_all` leaves nothing paused and nothing held."""

    def __init__(self, plan: FaultPlan, stack: Stack, links: dict[str, Proxy]) -> None:
        self._stack = stack
        self._links = links
        self._numbers = count()
        self._ahead: list[tuple[float, int, Fault]] = [(fault.at_s, next(self._numbers), fault) for fault in plan.faults]
        heapq.heapify(self._ahead)
        self._under_way: list[tuple[float, int, Fault, float, int | None]] = []
        self._owner: dict[str, Fault] = {}  # whose mode a link is in, and who paused a process
        self.done: list[PerformedFault] = []

    @property
    def is_over(self) -> bool:
        return not self._ahead and not self._under_way

    def act(self, now_s: float) -> None:
        """End what is due to end, begin what is due to begin."""
        while self._under_way and self._under_way[0][0] <= now_s:
            self._end(now_s)
        while self._ahead and self._ahead[0][0] <= now_s:
            _, _, fault = heapq.heappop(self._ahead)
            pid = self._begin(fault)
            heapq.heappush(self._under_way, (now_s + fault.for_s, next(self._numbers), fault, now_s, pid))
            self.act(now_s)

    def end_all(self, now_s: float) -> None:
        self._ahead.clear()
        while self._under_way:
            self._end(now_s)

    def _begin(self, fault: Fault) -> int | None:
        """The pid of the process that is hit."""
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
        """A later fault on the same target goes on."""
        _, _, fault, began_s, pid = heapq.heappop(self._under_way)
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
    if fault.kind is FaultKind.FAILING_BASE and fault.status:
        return RefuseRequests(fault.status)
    return ResetConnections()


def links(broker: Proxy, base: Proxy) -> dict[str, Proxy]:
    return {BROKER_LINK: broker, BASE_LINK: base}


@dataclass(frozen=True)
class ProcessChange:
    """A process as its supervisor saw it from `at_s` on."""

    at_s: float
    name: str
    state: ProcessState
    restarts: int


class ProcessLog:
    """Every change of the stack's processes, as often as `look` is called."""

    def __init__(self) -> None:
        self.changes: list[ProcessChange] = []
        self._last: dict[str, tuple[ProcessState, int]] = {}

    def look(self, processes: Sequence[ProcessRecord], now_s: float) -> None:
        for process in processes:
            state = ProcessState.STOPPED if process.state is ProcessState.READY and process.pid is None else process.state
            if self._last.get(process.name) != (state, process.restarts):
                self._last[process.name] = (state, process.restarts)
                self.changes.append(ProcessChange(now_s, process.name, state, process.restarts))

    def recoveries_s(self) -> dict[str, list[float]]:
        """By process: from each time that it did not serve any more until it served again."""
        served: set[str] = set()
        down: dict[str, float] = {}
        found: dict[str, list[float]] = {}
        for change in self.changes:
            if change.state is ProcessState.READY:
                served.add(change.name)
                if change.name in down:
                    found.setdefault(change.name, []).append(round(change.at_s - down.pop(change.name), 2))
            elif change.name in served:
                down.setdefault(change.name, change.at_s)
        return found

    def unasked_ends(self, done: Sequence[PerformedFault]) -> dict[str, int]:
        """By process: how often it was started again without having been killed or asked to."""
        starts = Counter({name: restarts for name, (_, restarts) in self._last.items()})
        asked = Counter(one.fault.target for one in done if one.fault.kind in (FaultKind.KILL, FaultKind.RESTART))
        return {name: starts[name] - asked[name] for name in sorted(starts) if starts[name] > asked[name]}
