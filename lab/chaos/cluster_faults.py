"""Faults in a cluster's nodes, one after another. A fault ends when every node runs again; healing is the caller's to wait for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from infra.errors import RetryLater
from lab.chaos.faults import PerformedFault
from lab.chaos.plan import Fault, FaultKind
from lab.chaos.records import LoadClock
from lab.cluster.layout import NODES, node_name

#: Longer than a node's session, which is 9 s: the others take over its partitions and work without it.
AWAY_S = 20.0
#: Bounds for a busy machine.
FAILOVER_WITHIN_S, END_WITHIN_S, SYNC_WITHIN_S = 90.0, 60.0, 180.0

#: Steps the experiment until the condition holds. Raises CannotContinue with the text after the seconds.
Wait = Callable[[Callable[[], bool], float, str], None]


class Nodes(Protocol):
    """What `lab.cluster.cluster.Cluster` does with its nodes."""

    def kill(self, number: int) -> None: ...
    def request_stop(self, number: int) -> None: ...
    def launch(self, number: int) -> None: ...
    def is_running(self, number: int) -> bool: ...
    def pid(self, number: int) -> int | None: ...
    def active_controller(self) -> int: ...
    def is_in_sync(self) -> bool: ...


class ClusterFaults:
    """Injects one fault at a time. `done` has a record for each node that was hit."""

    def __init__(self, cluster: Nodes, clock: LoadClock, wait: Wait, seed: int) -> None:
        self._cluster = cluster
        self._clock = clock
        self._wait = wait
        self._rng = random.Random(f"cluster/{seed}")  # noqa: S311  # a repeatable choice of nodes, no secret
        self.done: list[PerformedFault] = []
        self.away: set[int] = set()  # nodes that a fault stopped and has not started again

    def inject(self, kind: FaultKind) -> Sequence[str]:
        """Returns the names of the nodes that were hit, when all run again. Raises CannotContinue if the cluster does not react within the bounds."""
        nodes = {
            FaultKind.BROKER_AWAY: self._broker_away,
            FaultKind.UNCLEAN_RESTART: self._unclean_restart,
            FaultKind.CONTROLLER_FAILOVER: self._controller_failover,
            FaultKind.ROLLING_RESTART: self._rolling_restart,
        }[kind]()
        return [node_name(number) for number in nodes]

    def _broker_away(self) -> tuple[int, ...]:
        number = self._any_follower()
        with self._hit(FaultKind.BROKER_AWAY, number):
            self._cluster.kill(number)
            self._pass_time(AWAY_S)
            self._cluster.launch(number)
        return (number,)

    def _unclean_restart(self) -> tuple[int, ...]:
        number = self._any_follower()
        with self._hit(FaultKind.UNCLEAN_RESTART, number):
            self._cluster.kill(number)
            self._cluster.launch(number)
        return (number,)

    def _controller_failover(self) -> tuple[int, ...]:
        number = self._active_controller()
        with self._hit(FaultKind.CONTROLLER_FAILOVER, number):
            self._cluster.kill(number)
            self._wait(lambda: self._controller_now() not in (None, number), FAILOVER_WITHIN_S, "no other controller became active")
            self._pass_time(AWAY_S)
            self._cluster.launch(number)
        return (number,)

    def _rolling_restart(self) -> tuple[int, ...]:
        for number in NODES:
            with self._hit(FaultKind.ROLLING_RESTART, number):
                self._cluster.request_stop(number)
                self._wait(partial(self._has_ended, number), END_WITHIN_S, f"{node_name(number)} did not end on SIGTERM")
                self._cluster.launch(number)
                self._wait(self._cluster.is_in_sync, SYNC_WITHIN_S, f"the replicas on {node_name(number)} were not in sync after its restart")
        return NODES

    def _has_ended(self, number: int) -> bool:
        return not self._cluster.is_running(number)

    @contextmanager
    def _hit(self, kind: FaultKind, number: int) -> Iterator[None]:
        began_s, pid = self._clock.now(), self._cluster.pid(number)
        self.away.add(number)
        yield
        self.away.discard(number)
        ended_s = self._clock.now()
        self.done.append(PerformedFault(Fault(kind, node_name(number), began_s, round(ended_s - began_s, 2)), began_s, ended_s, pid))

    def _pass_time(self, seconds: float) -> None:
        until_s = self._clock.now() + seconds
        self._wait(lambda: self._clock.now() >= until_s, 2 * seconds, "the clock stands still")

    def _any_follower(self) -> int:
        """A node that is not the active controller, whose death is a fault of its own."""
        controller = self._active_controller()
        return self._rng.choice([number for number in NODES if number != controller])

    def _active_controller(self) -> int:
        found: int | None = None

        def is_found() -> bool:
            nonlocal found
            found = self._controller_now()
            return found is not None

        self._wait(is_found, FAILOVER_WITHIN_S, "no controller is active")
        assert found is not None
        return found

    def _controller_now(self) -> int | None:
        try:
            return self._cluster.active_controller()
        except RetryLater:
            return None
