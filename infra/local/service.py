"""The processes a stack runs, each with what it waits for and how it shows that it serves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from infra.kafka.topology import apply
from infra.local.broker import Broker
from infra.process.child import Child
from infra.settings import Settings


class Service(Protocol):
    """One process of the stack, as the supervisor sees it."""

    name: str
    needs: frozenset[str]  # the services that must be ready first
    is_task: bool  # runs once to its end, which then counts as ready
    child: Child

    def start(self) -> None: ...
    def is_ready(self) -> bool:
        """Asked while the process runs and was not ready yet; never blocks for long."""
        ...


class BrokerService:
    """The embedded broker, ready when it answers and has the declared topics."""

    name = "broker"
    needs: frozenset[str] = frozenset()
    is_task = False

    def __init__(self, broker: Broker, settings: Callable[[], Settings]) -> None:
        self._broker = broker
        self._settings = settings
        self._has_topics = False
        self.child = broker.child

    def start(self) -> None:
        self._broker.launch()

    def is_ready(self) -> bool:
        if not self._broker.answers():
            return False
        if not self._has_topics:
            apply(self._settings())
            self._has_topics = True
        return True


class ProcessService:
    """`python -m ...`, told everything by its environment, ready when it has created its ready file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        environment: Callable[[Path], Mapping[str, str]],
        needs: Sequence[str] = (),
        is_task: bool = False,
    ) -> None:
        self.name = name
        self.needs = frozenset(needs)
        self.is_task = is_task
        self.child = Child(name, command, directory / "logs" / f"{name}.log")
        self._ready_file = directory / "run" / f"{name}.ready"
        self._environment = environment

    def start(self) -> None:
        """The environment is asked for now: the broker's address is known only when it has been started."""
        self._ready_file.parent.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        self.child.env = dict(self._environment(self._ready_file))
        self.child.start()

    def is_ready(self) -> bool:
        return self._ready_file.exists()


class RestartCeiling:
    """How often a process may be started again: at most `limit` times within `window_s`."""

    def __init__(self, limit: int = 5, window_s: float = 60.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Counts one restart at `now`."""
        while self._times and now - self._times[0] > self.window_s:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self.limit
