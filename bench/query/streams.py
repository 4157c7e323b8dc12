"""The measured streams process with vectors given, on the index directory and in the consumer group of the run: each start continues the one before."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import httpx

from bench.ingest import stream
from bench.workers.bench_stack import STOP_S, BenchStack
from infra.errors import CannotContinue
from infra.process.child import Child
from infra.process.environment import environment
from infra.process.lifecycle import ready_process
from infra.process.ports import free_port
from infra.settings import Settings

NAME = "streams"
GIVEN = ("-m", "bench.ingest.vectors_given")
READY_S, POLL_S, REQUEST_S = 120.0, 0.02, 30.0


def settings_of(stack: BenchStack) -> Settings:
    return stream.run_settings(stack.settings, NAME)


@dataclass(frozen=True)
class Streams:
    child: Child
    client: httpx.Client
    metrics: str

    def indexed(self) -> int:
        """Interactions since the start of the process. Raises CannotContinue if one was not indexed, or if the process has ended."""
        try:
            return stream.indexed(self.client.get(self.metrics).text)
        except httpx.HTTPError as error:
            raise CannotContinue(f"{self.child.name} does not answer: {self.child.why_ended()}; end of {self.child.log}:\n{self.child.last_lines()}") from error


@contextmanager
def running(stack: BenchStack) -> Iterator[Streams]:
    """Returns when the process serves."""
    port = free_port(stream.HOST)
    settings = settings_of(stack).changed(telemetry={"http_host": stream.HOST, "http_port": port})
    with started(stack, NAME, GIVEN, settings) as child, closing(httpx.Client(timeout=REQUEST_S)) as client:
        yield Streams(child, client, f"http://{stream.HOST}:{port}/metrics")


@contextmanager
def started(stack: BenchStack, name: str, command: Sequence[str], settings: Settings) -> Iterator[Child]:
    """`python COMMAND`, ready when the block begins. Raises CannotContinue with the end of its log if it is not within READY_S."""
    ready = stack.settings.stack.dir / f"{name}.ready"
    child = Child(name, [sys.executable, *command], stack.logs / f"{name}.log", environment(settings.changed(ready_file=ready)))
    with ExitStack() as stopping:
        stopping.callback(child.stop, STOP_S)
        child.start()
        deadline = time.monotonic() + READY_S
        while ready_process(ready) != child.pid:
            if not child.is_running or time.monotonic() > deadline:
                raise CannotContinue(f"{name} was not ready within {READY_S:g} s; end of {child.log}:\n{child.last_lines()}")
            time.sleep(POLL_S)
        yield child
