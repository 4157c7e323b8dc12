"""Workers on a broker in memory, the queries they read, and the answers that a reader of committed records sees."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from infra.kafka.forwarding import FORWARDED_FROM
from infra.settings import load
from infra.settings.stream import WorkersSettings
from schemas.drafts import Draft
from schemas.envelope import Headers, envelope_headers
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import DRAFTS, QUERIES, consumer_group, dead_letter_topic
from tests.support.worker_messages import make_query
from workers.runtime.handler import DegradeReason, Handler, HandlerSpec, Incoming, Outgoing
from workers.runtime.memory.log import Faults, MemoryCluster
from workers.runtime.memory.transactions import MemoryBrokerClient
from workers.runtime.offsets import Position
from workers.runtime.worker import Worker

#: A tenth of it is enough.
WAIT_S = 60.0


class WorkerHarness:
    """Base workers from queries to drafts. `ask` needs a running event loop."""

    def __init__(self, partitions: int = 4, **cluster: Any) -> None:
        self.cluster = MemoryCluster(dict.fromkeys((QUERIES.name, DRAFTS.name, dead_letter_topic(QUERIES.name)), partitions), **cluster)

    def ask(
        self, *queries: Query, partition: int | None = None, ce_id: object = None, source: str = "/test", extra: Headers = (), forwarded: bool = True
    ) -> None:
        """`extra`: further headers. `forwarded`: on a chosen `partition` the record counts as forwarded, so it is handled there."""
        placed = [] if partition is None or not forwarded else [(FORWARDED_FROM, b"0/0")]
        for query in queries:
            headers = [*envelope_headers(query, id=ce_id or query.query_id, source=source), *placed, *extra]
            self.cluster.log.append(QUERIES.name, query.key, query.to_bytes(), headers, partition)

    def worker(self, handle: Handler[Query], *, instance: str = "one", faults: Faults | None = None, concurrency: int = 16, **options: Any) -> Worker[Query]:
        """`options` are settings of the section `workers`, fields of the handler spec, or arguments of the worker."""
        section = {"commit_every_ms": 5} | {name: options.pop(name) for name in WorkersSettings.model_fields if name in options}
        spec = HandlerSpec("base", QUERIES, handle, **{name: options.pop(name) for name in ("deadline", "degrade", "backoff") if name in options})
        broker = MemoryBrokerClient(self.cluster, instance, faults)
        return Worker(load(workers=section, stack={"stop_timeout_s": 4.0}), spec, concurrency=concurrency, broker=broker, **options)

    def answers(self) -> list[Draft]:
        return [Draft.from_bytes(entry.value or b"") for entry in self.cluster.log.committed_records(DRAFTS.name)]

    def answered(self) -> Counter[str]:
        """Number of answers by text."""
        return Counter(draft.query.text for draft in self.answers())

    def dead_letters(self) -> int:
        return len(self.cluster.log.committed_records(dead_letter_topic(QUERIES.name)))

    def reasons(self) -> list[str]:
        """Why records were set aside."""
        letters = self.cluster.log.committed_records(dead_letter_topic(QUERIES.name))
        return [dict(letter.headers)["kafka_dlt-exception-message"].decode() for letter in letters]

    def committed(self, partition: int) -> Position | None:
        return self.cluster.log.committed(consumer_group("base"), partition)

    def commit(self, partition: int, position: Position) -> None:
        self.cluster.log.commit(consumer_group("base"), {partition: position})


def numbered(count: int, *, users: int = 20, first: int = 0, deadline: datetime | None = None) -> list[Query]:
    """Queries whose text is their number."""
    return [make_query(number, user=f"u{number % users}", text=str(number), deadline=deadline) for number in range(first, first + count)]


def each_once(queries: Sequence[Query]) -> Counter[str]:
    return Counter(query.text for query in queries)


def draft(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    query = incoming.message
    return [Outgoing(DRAFTS, Draft(query=query, answer="a", base_model="m", base_ms=1.0), derive("draft", query.query_id))]


async def answer(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    return draft(incoming)


def degrade(incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
    return draft(incoming)


class ScriptedHandler:
    """A handler that runs a step for one text (`on1=...` for the text "1"), and answers all others."""

    def __init__(self, **steps: Callable[[], Awaitable[None]]) -> None:
        self._steps = {name.removeprefix("on"): step for name, step in steps.items()}
        self.seen: list[str] = []

    def drop_step(self, text: str) -> None:
        """Answer this text too from now on."""
        del self._steps[text]

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        self.seen.append(incoming.message.text)
        if step := self._steps.get(incoming.message.text):
            await step()
        return draft(incoming)


async def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def serve_until(worker: Worker[Query], condition: Callable[[], bool]) -> None:
    """Serve until the condition holds, then stop in order."""
    async with asyncio.timeout(WAIT_S):
        await worker.serve(lambda: wait_for(condition))


async def kill_when(worker: Worker[Query], condition: Callable[[], bool]) -> None:
    """Serve until the condition holds, then stop without a last commit."""
    serving = asyncio.ensure_future(worker.serve(asyncio.Event().wait))  # type: ignore[arg-type]  # its result is not used
    await wait_for(condition)
    serving.cancel()
    await asyncio.wait([serving], timeout=WAIT_S)


async def never_returns() -> None:
    await asyncio.Event().wait()
