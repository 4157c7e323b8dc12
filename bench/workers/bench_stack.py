"""The environment of a run: its own broker in an empty directory, its topics, and the measured processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.workers import load
from bench.workers.process import WORKER_KIND, WorkerKind
from infra.errors import CannotContinue
from infra.kafka.clients import admin
from infra.local.broker import Broker
from infra.process.child import Child
from infra.process.environment import environment
from infra.process.lifecycle import ready_process
from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from schemas.topics import dead_letter_topic

PARTITIONS = 4
READY_S = 60.0
STOP_S = 20.0
#: Settings of a broker without security. A child reads them again, so they must fit together.
WITHOUT_SECURITY = {name: value for name, value in KafkaSettings() if name.startswith(("security_", "sasl_", "ssl_", "oauth"))}


@dataclass
class BenchStack:
    """`settings` have the broker's address. Call all methods from one thread that outlives the processes."""

    settings: Settings
    broker: Broker
    logs: Path

    def make_topics(self, names: Sequence[str]) -> None:
        """Raises CannotContinue if the broker does not create them."""
        client = admin(self.settings, "bench-admin")
        try:
            client.create_topics({name: {"num_partitions": PARTITIONS, "replication_factor": 1} for name in names})
            client.wait_for_topics(list(names))
        finally:
            client.close()

    def make_worker_topics(self, kind: WorkerKind, *, with_input: bool = True) -> None:
        """Creates the topics of a kind of worker. Several kinds can share one input topic."""
        self.make_topics([*((kind.topic, dead_letter_topic(kind.topic)) if with_input else ()), kind.out])

    def ask(self, schedule: load.QuerySchedule) -> None:
        """Sends a backlog from this process."""
        load.send_queries(self.settings, schedule)

    @contextmanager
    def loading(self, schedule: load.QuerySchedule) -> Iterator[Child]:
        """A process that sends the queries of `schedule`."""
        child = self._child(
            f"load-{schedule.topic}", [sys.executable, "-m", "bench.workers.load", load.QUERY_SCHEDULE.dump_json(schedule).decode()], self.settings
        )
        child.start()
        try:
            yield child
        finally:
            child.stop(STOP_S)

    @contextmanager
    def workers(self, kind: WorkerKind, count: int = 1) -> Iterator[list[Child]]:
        """`count` processes of one kind, all in the consumer group when the block begins, and stopped after it."""
        children = [self._worker(kind, f"{number}") for number in range(count)]
        try:
            for child in children:
                child.start()
            self._wait_ready(kind, children)
            yield children
        finally:
            for child in children:
                if child.is_running:
                    child.terminate()
            for child in children:
                child.stop(STOP_S)

    def _wait_ready(self, kind: WorkerKind, children: Sequence[Child]) -> None:
        """Waits until each has joined its group. Raises CannotContinue with the end of the log if one does not."""
        deadline = time.monotonic() + READY_S
        for number, child in enumerate(children):
            while ready_process(self._ready_file(kind, f"{number}")) != child.pid:
                if not child.is_running or time.monotonic() > deadline:
                    raise CannotContinue(f"{child.name} was not ready within {READY_S:g} s; end of {child.log}:\n{child.last_lines()}")
                time.sleep(0.05)

    def _worker(self, kind: WorkerKind, instance: str) -> Child:
        workers = {"delivery": kind.delivery, "order": kind.order}
        settings = self.settings.changed(kafka={"instance": instance}, workers=workers, ready_file=self._ready_file(kind, instance))
        return self._child(f"{kind.name}-{instance}", [sys.executable, "-m", "bench.workers.process", WORKER_KIND.dump_json(kind).decode()], settings)

    def _ready_file(self, kind: WorkerKind, instance: str) -> Path:
        return self.settings.stack.dir / f"{kind.name}-{instance}.ready"

    def _child(self, name: str, command: Sequence[str], settings: Settings) -> Child:
        return Child(name, command, self.logs / f"{name}.log", environment(settings))


@contextmanager
def bench_stack(settings: Settings, state: Path, logs: Path) -> Iterator[BenchStack]:
    """Starts a broker in the empty folder `state`; the configured broker is not used. Raises CannotContinue if it does not start."""
    settings = settings.changed(stack={"dir": state, "broker_port": 0}, kafka={"bootstrap_servers": None, "instance": None, **WITHOUT_SECURITY})
    with Broker(settings) as broker:
        yield BenchStack(settings.changed(kafka={"bootstrap_servers": broker.bootstrap_servers}), broker, logs)
