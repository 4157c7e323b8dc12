"""The processes of a stack: how each one starts, which others it needs, and when it is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from infra.kafka.topology import apply_topology
from infra.local.broker import Broker
from infra.local.source_topics import create_source_topics
from infra.process.child import Child
from infra.process.lifecycle import blocked_file, blocked_reason, ready_process
from infra.settings import Settings


class StackService(Protocol):
    """One process of the stack. The supervisor uses this interface."""

    name: str
    needs: frozenset[str]  # the services that must be ready first
    is_task: bool  # runs once to its end, which then counts as ready
    child: Child

    def start(self) -> None: ...
    def is_ready(self) -> bool:
        """Called while the process starts. Does not block for long."""

    def blocked(self) -> str | None:
        """Why the running process makes no progress (`infra.process.lifecycle.report_blocked`); None if it reports nothing. Cheap."""


class BrokerService:
    """The local broker. It is ready when it answers and has the declared topics, and those of `sources.file`."""

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
            apply_topology(self._settings())
            create_source_topics(self._settings())
            self._has_topics = True
        return True

    def blocked(self) -> str | None:
        return None


class ProcessService:
    """A Python process with its settings in environment variables. It is ready while its ready file holds its id."""

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
        """Builds the environment now, because the broker's address is not known before the broker starts."""
        self._ready_file.parent.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        blocked_file(self._ready_file).unlink(missing_ok=True)
        self.child.env = dict(self._environment(self._ready_file))
        self.child.start()

    def is_ready(self) -> bool:
        return ready_process(self._ready_file) == self.child.pid

    def blocked(self) -> str | None:
        return blocked_reason(self._ready_file)
