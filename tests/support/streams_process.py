"""Runs the streams process for tests, writes its input topics and reads its output topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.kafka.clients import groupless_consumer, producer, send
from infra.settings import Settings
from schemas.contexts import Context
from schemas.drafts import Draft
from schemas.envelope import read_message
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.lookups import ItemOrder, Lookup, Reads, Retrieval
from schemas.messages import Message
from schemas.positions import Source
from schemas.queries import Query
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.strategies import Strategy, StrategyChoice
from schemas.topics import CONTEXTS, DRAFTS, INTERACTIONS, OUTCOMES, RETRIEVALS, Topic

NOW = datetime.now(UTC).replace(microsecond=0)
START_S, WAIT_S, STOP_S = 240.0, 90.0, 60.0


class StreamsClient:
    """Writes the records of users and workers, and reads the output from the offsets at its start."""

    def __init__(self, settings: Settings) -> None:
        from kafka import TopicPartition

        self.user = f"user-{uuid.uuid4().hex[:8]}"
        self._producer = producer(settings, "test-client")
        self._reader = groupless_consumer(settings, "test-reader")
        topics = (CONTEXTS.name, RETRIEVALS.name, OUTCOMES.name, INTERACTIONS.name, "interactions-dlt", "drafts-dlt", "lookups-dlt", "feedback-dlt")
        partitions = [TopicPartition(topic, n) for topic in topics for n in self._reader.partitions_for_topic(topic)]
        self._reader.assign(partitions)
        for partition, offset in self._reader.end_offsets(partitions).items():
            self._reader.seek(partition, offset)
        self.seen: list[Any] = []

    def send(self, topic: Topic, *messages: Message) -> None:
        for message in messages:
            send(self._producer, topic, message, id=uuid.uuid4(), source="/test")
        self._producer.flush()

    def send_to(self, topic: Topic, message: Message) -> Source:
        """Sends one message. Returns the position that the broker gave it."""
        placed = send(self._producer, topic, message, id=uuid.uuid4(), source="/test").get(timeout=WAIT_S)
        return Source(topic=topic.name, partition=placed.partition, offset=placed.offset)

    def send_raw(self, topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        self._producer.send(topic, key=b"odd key", value=value, headers=headers)
        self._producer.flush()

    def poll(self) -> None:
        for records in self._reader.poll(timeout_ms=200).values():
            self.seen += records

    def wait_for(self, topic: str, matches: Callable[[Any], bool], timeout_s: float = WAIT_S) -> Any:
        """The first matching record of `topic` since the start."""
        until = time.monotonic() + timeout_s
        while True:
            for record in self.seen:
                if record.topic == topic and matches(record):
                    return record
            assert time.monotonic() < until, f"no such record on {topic} within {timeout_s} s"
            self.poll()

    def context_of(self, query: Query) -> Context:
        record = self.wait_for(CONTEXTS.name, lambda r: Context.from_bytes(r.value).draft.query.query_id == query.query_id)
        assert record.key == query.key
        context, envelope = read_message(Context, record.headers, record.value)
        assert envelope.id == str(derive("context", query.query_id))
        return context

    def retrievals_of(self, lookup: Lookup) -> list[Retrieval]:
        """All retrievals of the lookup that were read, at least one. They have one id."""
        self.wait_for(RETRIEVALS.name, lambda r: Retrieval.from_bytes(r.value).lookup == lookup)
        read = [read_message(Retrieval, r.headers, r.value) for r in self.seen if r.topic == RETRIEVALS.name]
        retrievals = [(retrieval, envelope) for retrieval, envelope in read if retrieval.lookup == lookup]
        assert {envelope.id for _, envelope in retrievals} == {str(derive("retrieval", lookup.id))}
        return [retrieval for retrieval, _ in retrievals]

    def query(self, text: str, *, user: str | None = None) -> Query:
        options = ("comedy", "drama")
        return Query(query_id=uuid.uuid4(), tenant="acme", user=user or self.user, domain="movie_tag", text=text, options=options, asked_at=NOW)

    def interaction(self, content: str, *, user: str | None = None, at: datetime = NOW - timedelta(days=1)) -> Interaction:
        fields = {"tenant": "acme", "user": user or self.user, "domain": "movie_tag", "source_id": content, "content": content}
        return Interaction.observed(**fields, response="comedy", occurred_at=at)

    def feedback(self, query: Query, truth: str, *, user: str | None = None) -> Feedback:
        ids = {"feedback_id": uuid.uuid4(), "query_id": query.query_id}
        return Feedback(**ids, tenant=query.tenant, user=user or query.user, truth=truth, occurred_at=NOW + timedelta(minutes=1))

    def context_with(self, query: Query, items: int) -> Context:
        """Repeats the query until its context has this many items: history and retrieval are two streams."""
        until = time.monotonic() + WAIT_S
        while True:
            repeated = query.model_copy(update={"query_id": uuid.uuid4()})
            self.send(DRAFTS, draft(repeated))
            context = self.context_of(repeated)
            if len(context.items) >= items:
                return context
            assert time.monotonic() < until, f"the context has {len(context.items)} items, not {items}, after {WAIT_S} s"

    def close(self) -> None:
        self._producer.close()
        self._reader.close()


def draft(query: Query) -> Draft:
    return Draft(query=query, answer="drama", base_model="base", base_ms=1)


def lookup(query: Query, items: ItemOrder = ItemOrder.SIMILAR, k: int = 4) -> Lookup:
    return Lookup(query=query, choice=StrategyChoice(strategy=Strategy.RAG), reads=Reads(items=items, k=k))


def response(query: Query) -> Response:
    provenance = Provenance(
        model=None, base_model="base", strategy=Strategy.RPO, k=0, history_ids=(), prompt_digest=None, base_ms=1, retrieve_ms=1, reflect_ms=1
    )
    context = Context(draft=draft(query), items=(), k_max=6, retrieve_ms=1)
    answer = {"answer": "model words", "reasoning": "", "status": ResponseStatus.NO_HISTORY, "answered_at": NOW}
    return Response(query_id=query.query_id, context=context, provenance=provenance, **answer)


class StreamsProcess:
    """The process under test: `python -m module`, with its log in a file. `environment` are more environment variables."""

    def __init__(self, settings: Settings, module: str = "streams", **environment: str) -> None:
        self._command = [sys.executable, "-m", *module.split()]
        self._log = settings.stack.dir / "streams.log"
        self._ready = settings.stack.dir / "ready"
        self._env = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
            "RETOUCH_STACK__DIR": str(settings.stack.dir),
            "RETOUCH_READY_FILE": str(self._ready),
            **environment,
        }
        settings.stack.dir.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env)

    def wait_until_ready(self) -> None:
        assert self.process is not None
        until = time.monotonic() + START_S
        while not self._ready.exists():
            assert self.process.poll() is None, f"exit code {self.process.returncode}: {self.log()}"
            assert time.monotonic() < until, f"not ready within {START_S} s: {self.log()}"
            time.sleep(0.05)

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait(self, timeout_s: float = STOP_S) -> int:
        """The exit code of a process that ends by itself."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(STOP_S)

    def end(self) -> None:
        """Kills it if it still runs."""
        if self.is_running():
            self.stop(signal.SIGKILL)

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def running(settings: Settings, module: str = "streams", **environment: str) -> Iterator[StreamsProcess]:
    streams = StreamsProcess(settings, module, **environment)
    try:
        streams.start()
        yield streams
    finally:
        streams.end()
