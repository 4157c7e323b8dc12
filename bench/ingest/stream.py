"""The streams process on a full topic: the rate at which history becomes retrievable, and what an event costs.

A record counts once the processor has acknowledged it (`retouch_streams_records_total`): its point is in the index, and an fsync has made it durable. At the
end the group's committed offsets must have reached the end of the topic.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.usage import tree_bytes, tree_cpu_s
from bench.workers.bench_stack import BenchStack
from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.topology import apply_topology
from infra.process.child import Child
from infra.process.environment import environment
from infra.process.ports import free_port
from infra.settings import Settings
from schemas.interactions import Interaction
from schemas.topics import INTERACTIONS
from traffic.lag import GroupLag

HOST = "127.0.0.1"
COUNTER = "retouch_streams_records_total"
POLL_S, MEMORY_EVERY_S = 0.25, 2.0
#: The process ends by itself after `streams.stall_timeout_s`, which is longer than its start.
STALL_S, COMMIT_S, STOP_S, FLUSH_S = 180.0, 60.0, 20.0, 120.0
SOURCE = "/bench/ingest"
#: Interactions whose acknowledgements are awaited together: each has an object in memory until then.
SENT_AT_ONCE = 20_000


@dataclass(frozen=True)
class Sample:
    """State at `at_s` (monotonic): acknowledged records, processor seconds of the process tree and of the broker, and bytes of the process tree."""

    at_s: float
    records: int
    cpu_s: float = 0.0
    broker_cpu_s: float = 0.0
    tree_bytes: int = 0


def fill_topic(settings: Settings, events: Iterable[Interaction]) -> int:
    """Creates the topics of `settings` and sends all events. Returns their number. Raises CannotContinue if the broker does not acknowledge each."""
    apply_topology(settings)
    to = producer(settings, "bench-ingest", linger_ms=20)
    try:
        total, left = 0, iter(events)
        while sent := [send(to, INTERACTIONS, event, id=event.interaction_id, source=SOURCE) for event in islice(left, SENT_AT_ONCE)]:
            to.flush(timeout=FLUSH_S)
            if failed := sum(not future.succeeded() for future in sent):
                raise CannotContinue(f"the broker did not acknowledge {failed} of {len(sent)} interactions")
            total += len(sent)
        return total
    finally:
        to.close(timeout=5)


def measure(stack: BenchStack, settings: Settings, name: str, events: int, command: Sequence[str] = ("-m", "streams")) -> list[Sample]:
    """Runs `python COMMAND` with an empty index of its own until all `events` of the topic are indexed and their offsets are committed.

    `settings` name the topics. Each run has a consumer group of its own. Raises CannotContinue if the process fails or makes no progress.
    """
    port = free_port(HOST)
    settings = run_settings(settings, name).changed(telemetry={"http_host": HOST, "http_port": port})
    child = Child(name, [sys.executable, *command], stack.logs / f"{name}.log", environment(settings))
    with _running(child):
        samples = list(_samples(child, f"http://{HOST}:{port}/metrics", events, stack.broker.child.pid))
        with GroupLag(settings) as lag:
            lag.wait([INTERACTIONS], stall_s=COMMIT_S)
    return samples


def run_settings(settings: Settings, name: str) -> Settings:
    """The index directory and the consumer group of the run `name`."""
    return settings.changed(stack={"dir": settings.stack.dir / name}, kafka={"group_prefix": f"{name}."})


@contextmanager
def _running(child: Child) -> Iterator[None]:
    child.start()
    try:
        yield
    finally:
        child.stop(STOP_S)


def _samples(child: Child, metrics: str, events: int, broker: int | None) -> Iterator[Sample]:
    """One sample for each change of the counter."""
    tree, broker_process = psutil.Process(child.pid), psutil.Process(broker)
    with closing(httpx.Client(timeout=STALL_S)) as client:
        seen, since, weighed_s, held = 0, time.monotonic(), 0.0, 0
        while seen < events:
            at_s = time.monotonic()
            if not child.is_running:
                raise CannotContinue(f"{child.name} failed: {child.why_ended()}; end of {child.log}:\n{child.last_lines()}")
            if at_s - since > STALL_S:
                raise CannotContinue(f"{child.name} indexed {seen} of {events} events and stands still; end of {child.log}:\n{child.last_lines()}")
            if (records := _records(client, metrics)) > seen:
                if at_s - weighed_s > MEMORY_EVERY_S or records >= events:
                    weighed_s, held = at_s, tree_bytes(tree)
                yield Sample(at_s, records, tree_cpu_s(tree), tree_cpu_s(broker_process), held)
                seen, since = records, at_s
            time.sleep(POLL_S)


def _records(client: httpx.Client, metrics: str) -> int:
    """0 until the process listens."""
    try:
        return indexed(client.get(metrics).text)
    except httpx.ConnectError:
        return 0


def indexed(page: str) -> int:
    """Acknowledged interactions of a metrics page. Raises CannotContinue if one was not indexed."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples if sample.name == COUNTER]
    by_outcome = {sample.labels["outcome"]: int(sample.value) for sample in samples if sample.labels["processor"] == "history"}
    if others := {outcome: count for outcome, count in by_outcome.items() if outcome != "done" and count}:
        raise CannotContinue(f"the streams process did not index every interaction of the run: {others}")
    return by_outcome.get("done", 0)


def steady(samples: Sequence[Sample], first: float, last: float) -> dict[str, Any]:
    """Rate and cost of an event from the first sample with at least `first` records to the last one with at most `last`.

    Raises CannotContinue if there is no time between the two.
    """
    inside = [sample for sample in samples if first <= sample.records <= last]
    if len(inside) < 2 or inside[0].records == inside[-1].records:
        raise CannotContinue(f"there is no steady rate between {first:.0f} and {last:.0f} events; use more texts")
    begin, end = inside[0], inside[-1]
    records, seconds = end.records - begin.records, end.at_s - begin.at_s
    return {
        "per_s": round(records / seconds, 2),
        "from": begin.records,
        "to": end.records,
        "seconds": round(seconds, 2),
        "cpu_ms_per_event": round((end.cpu_s - begin.cpu_s) * 1000 / records, 3),
        "broker_cpu_ms_per_event": round((end.broker_cpu_s - begin.broker_cpu_s) * 1000 / records, 3),
    }


def peak_mb(samples: Iterable[Sample]) -> int:
    """Proportional set size of the process tree, which was taken every MEMORY_EVERY_S."""
    return round(max(sample.tree_bytes for sample in samples) / 2**20)


def timeline(samples: Sequence[Sample]) -> list[list[float]]:
    """Seconds since the first sample, and records, at most 200 pairs."""
    thinned = samples[:: max(1, len(samples) // 200)]
    return [[round(sample.at_s - samples[0].at_s, 2), sample.records] for sample in thinned]


def bytes_per_item(samples: Sequence[Sample], first: float) -> int | None:
    """Growth of memory from the first sample with at least `first` records to the last one, by item. None if memory did not grow."""
    inside = [sample for sample in samples if sample.records >= first]
    grown = inside[-1].tree_bytes - inside[0].tree_bytes if len(inside) > 1 else 0
    return round(grown / (inside[-1].records - inside[0].records)) if grown > 0 else None


def longest_pause_s(samples: Sequence[Sample]) -> float:
    """The longest time between two changes of the counter."""
    return round(max((after.at_s - before.at_s for before, after in pairwise(samples)), default=0.0), 2)
