"""Which nodes each fault of a cluster hits, and that all of them run again afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from infra.errors import CannotContinue, RetryLater
from lab.chaos.cluster_faults import AWAY_S, ClusterFaults
from lab.chaos.plan import CLUSTER_FAULTS, FaultKind
from lab.chaos.records import LoadClock
from lab.cluster.layout import NODES


class StepClock(LoadClock):
    """Moves only when the experiment steps."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = 0.0

    def now(self) -> float:
        return self.at_s


class MemoryNodes:
    """Three nodes. The lowest running one is the active controller, a second after the one before it ended; a majority of them is needed."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self.running = set(NODES)
        self.events: list[tuple[str, int]] = []
        self.fewest = len(NODES)
        self._elected_at_s = 0.0

    def kill(self, number: int) -> None:
        self._end("kill", number)

    def request_stop(self, number: int) -> None:
        self._end("stop", number)

    def _end(self, event: str, number: int) -> None:
        self.events.append((event, number))
        self._elected_at_s = self._clock.now() + 1
        self.running.remove(number)
        self.fewest = min(self.fewest, len(self.running))

    def launch(self, number: int) -> None:
        self.events.append(("launch", number))
        self.running.add(number)

    def is_running(self, number: int) -> bool:
        return number in self.running

    def pid(self, number: int) -> int | None:
        return 100 + number

    def active_controller(self) -> int:
        if self._clock.now() < self._elected_at_s or len(self.running) < 2:
            raise RetryLater("no controller")
        return min(self.running)

    def is_in_sync(self) -> bool:
        return self.running == set(NODES)


def injected(kind: FaultKind, seed: int = 0) -> tuple[MemoryNodes, ClusterFaults, list[str]]:
    clock = StepClock()
    nodes = MemoryNodes(clock)

    def wait(condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
        until_s = clock.at_s + timeout_s
        while not condition():
            clock.at_s += 0.5
            if clock.at_s > until_s:
                raise CannotContinue(failure)

    faults = ClusterFaults(nodes, clock, wait, seed)
    return nodes, faults, list(faults.inject(kind))


@pytest.mark.parametrize("kind", CLUSTER_FAULTS)
@pytest.mark.parametrize("seed", range(5))
def test_one_node_at_a_time_is_down_and_all_run_again(kind: FaultKind, seed: int) -> None:
    nodes, faults, names = injected(kind, seed)
    assert (nodes.fewest, nodes.running, faults.away) == (2, set(NODES), set())
    assert [performed.fault.target for performed in faults.done] == names
    assert {performed.fault.kind for performed in faults.done} == {kind}


@pytest.mark.parametrize("seed", range(10))
def test_a_node_that_is_away_is_no_controller_and_stays_away_beyond_its_session(seed: int) -> None:
    nodes, faults, _ = injected(FaultKind.BROKER_AWAY, seed)
    (event, number), launched = nodes.events
    assert (event, launched) == ("kill", ("launch", number)) and number != 1
    assert faults.done[0].ended_s - faults.done[0].began_s >= AWAY_S


def test_an_unclean_restart_is_a_kill_and_a_start_at_once() -> None:
    nodes, faults, _ = injected(FaultKind.UNCLEAN_RESTART)
    assert [event for event, _ in nodes.events] == ["kill", "launch"]
    assert faults.done[0].ended_s == faults.done[0].began_s


def test_a_failover_kills_the_active_controller() -> None:
    nodes, _, names = injected(FaultKind.CONTROLLER_FAILOVER)
    assert nodes.events == [("kill", 1), ("launch", 1)] and names == ["broker-1"]


def test_a_rolling_restart_stops_each_node_in_turn() -> None:
    nodes, _, _ = injected(FaultKind.ROLLING_RESTART)
    assert nodes.events == [(event, number) for number in NODES for event in ("stop", "launch")]
