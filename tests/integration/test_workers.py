"""Workers on a real broker: normal work, and records, endpoints and processes that fail."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.endpoints.client import HEALTH_CHECK_PROMPT
from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import admin, producer, send
from infra.kafka.topic_reader import TopicReader
from infra.kafka.topology import apply_topology
from infra.local.broker import FIXED_PROPERTIES, Broker
from infra.process.ports import free_port
from infra.settings import Settings, load
from schemas.drafts import Draft, DraftStatus
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import DRAFTS, QUERIES, Topic, dead_letter_topic
from tests.support.openai_server import ScriptedAnswer, completion, failure, scripted, serving
from tests.support.worker_process import USERS_TEXT, process
from workers.runtime.handler import DEFAULT_BACKOFF, Backoff, Handler, HandlerSpec, Incoming, Outgoing
from workers.runtime.worker import Worker, WorkerCounts

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

#: Ten times what a test needs: the machine is shared.
WAIT_S = 60.0


@dataclass(frozen=True)
class WorkerTopics:
    """Topics for one test, and workers of a group with their name."""

    settings: Settings
    name: str
    queries: Topic
    drafts: Topic

    def worker(self, handler: Handler[Query], *, instance: str = "one", concurrency: int = 16, backoff: Backoff = DEFAULT_BACKOFF) -> Worker[Query]:
        kafka = self.settings.kafka.model_copy(update={"instance": instance, "session_timeout_ms": 6000})
        settings = self.settings.model_copy(update={"kafka": kafka})
        return Worker(settings, HandlerSpec(self.name, self.queries, handler, backoff=backoff), concurrency=concurrency)

    def ask(self, count: int) -> list[Query]:
        return ask(self.settings, self.queries, count)

    def answers(self, least: int) -> list[Any]:
        return records(self.settings, self.drafts.name, lambda records: len(records) >= least)

    def dead_letters(self, least: int) -> list[Any]:
        return records(self.settings, dead_letter_topic(self.name), lambda records: len(records) >= least)


@pytest.fixture
def topics(settings: Settings) -> WorkerTopics:
    name = f"w{uuid.uuid4().hex[:10]}"
    queries, drafts = Topic(name, Query, "tenant/user", "test", "test"), Topic(f"{name}-out", Draft, "tenant/user", "test", "test")
    names = [name, drafts.name, dead_letter_topic(name)]
    client = admin(settings)
    client.create_topics({each: {"num_partitions": 4, "replication_factor": 1} for each in names})
    client.wait_for_topics(names)
    client.close()
    return WorkerTopics(settings, name, queries, drafts)


def make_query(user: str) -> Query:
    return Query(query_id=uuid.uuid4(), tenant="test-workers", user=user, domain="movie_tag", text=USERS_TEXT, options=("a", "b"), asked_at=datetime.now(UTC))


def ask(settings: Settings, topic: Topic, count: int) -> list[Query]:
    queries = [make_query(f"u{number % 20}") for number in range(count)]
    to = producer(settings, "test")
    for query in queries:
        send(to, topic, query, id=query.query_id, source="/test")
    to.close()
    return queries


def records(settings: Settings, topic: str, enough: Callable[[list[Any]], bool], timeout_s: float = WAIT_S) -> list[Any]:
    """All records of a topic, once `enough` holds for them."""
    with TopicReader(settings, "test-reader") as reader:
        reader.follow(topic)
        read: list[Any] = []
        deadline = time.monotonic() + timeout_s
        while not enough(read):
            assert time.monotonic() < deadline, f"only {len(read)} records on {topic} after {timeout_s:g} s"
            read += reader.poll(0.2)
        return read + reader.poll(0.3)  # one too many would show up


def ce_ids(records: Sequence[Any]) -> Counter[str]:
    """Ids of the CloudEvents among the records. The topics also hold malformed records of other tests."""
    ids = (dict(record.headers).get("ce_id") for record in records)
    return Counter(ce_id.decode() for ce_id in ids if ce_id)


def draft_ids(queries: Sequence[Query]) -> set[str]:
    return {str(derive("draft", query.query_id)) for query in queries}


def draft_handler(topic: Topic, *, longest_s: float = 0.02) -> Handler[Query]:
    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        await asyncio.sleep(random.uniform(0, longest_s))
        draft = Draft(query=incoming.message, answer="a", base_model="m", base_ms=1.0)
        return [Outgoing(topic, draft, derive("draft", incoming.message.query_id))]

    return handle


def test_every_record_is_answered_once_although_they_finish_out_of_order(topics: WorkerTopics) -> None:
    queries = topics.ask(300)
    counts = topics.worker(draft_handler(topics.drafts)).drain(WAIT_S)
    assert (counts.read, counts.produced, counts.set_aside) == (300, 300, 0)
    assert ce_ids(topics.answers(300)) == Counter(draft_ids(queries))
    assert topics.worker(draft_handler(topics.drafts)).drain(WAIT_S).read == 0


def test_more_records_are_in_flight_than_there_are_partitions(topics: WorkerTopics) -> None:
    topics.ask(64)
    running, most = 0, 0
    full = asyncio.Event()

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 32:
            full.set()
        async with asyncio.timeout(WAIT_S / 2):
            await full.wait()
        await asyncio.sleep(0.5)  # one too many would show up
        running -= 1
        return []

    topics.worker(handle, concurrency=32).drain(WAIT_S)
    assert most == 32


def test_reading_pauses_while_too_many_records_are_held(topics: WorkerTopics) -> None:
    topics.ask(400)
    waiting: list[int] = []
    draft = draft_handler(topics.drafts, longest_s=0.01)

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        waiting.append(worker.counts.read - len(waiting))
        return await draft(incoming)

    worker = topics.worker(handle, concurrency=2)
    assert worker.drain(WAIT_S).produced == 400
    assert max(waiting) < 200


def test_a_malformed_record_is_set_aside_and_the_others_are_answered(topics: WorkerTopics) -> None:
    topics.ask(20)
    to = producer(topics.settings, "test")
    to.send(topics.name, key=b"k", value=b"\x00 no json", headers=[("mine", b"1")])
    to.send(topics.name, key=b"tombstone", value=None)
    to.close()
    topics.ask(20)
    counts = topics.worker(draft_handler(topics.drafts)).drain(WAIT_S)
    assert (counts.read, counts.produced, counts.set_aside) == (42, 40, 2)
    by_value = {dead_letter.value: dead_letter for dead_letter in topics.dead_letters(2)}
    dead_letter = by_value[b"\x00 no json"]
    assert (dead_letter.key, dead_letter.headers[0]) == (b"k", ("mine", b"1"))
    assert dict(dead_letter.headers)["kafka_dlt-original-topic"] == topics.name.encode()
    assert dict(dead_letter.headers)["kafka_dlt-original-consumer-group"] == f"retouch-{topics.name}".encode()
    assert None in by_value


def test_the_largest_record_of_a_topic_fits_its_dead_letter_topic(settings: Settings) -> None:
    """A declared dead-letter topic takes larger records, because of the added headers."""
    to = producer(settings, "test")
    value = random.Random(0).randbytes(1_048_000)
    to.send(QUERIES.name, key=b"k", value=value).get(timeout=30)
    to.close()
    worker: Worker[Query] = Worker(settings, HandlerSpec(f"large-{uuid.uuid4().hex[:6]}", QUERIES, draft_handler(DRAFTS)))
    assert worker.drain(WAIT_S).set_aside >= 1
    dead_letters = records(settings, dead_letter_topic(QUERIES.name), lambda dead_letters: any(dead_letter.value == value for dead_letter in dead_letters))
    assert dead_letters


def test_a_record_that_waits_for_its_next_attempt_blocks_no_other(topics: WorkerTopics) -> None:
    queries = topics.ask(40)
    retried, attempts = queries[0].query_id, 0
    answered: set[uuid.UUID] = set()
    draft = draft_handler(topics.drafts)

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        nonlocal attempts
        if incoming.message.query_id == retried:
            attempts += 1
            if attempts < 3 or len(answered) < 39:
                raise RetryLater("away", after_s=1.0)
        answered.add(incoming.message.query_id)
        return await draft(incoming)

    counts = topics.worker(handle, backoff=Backoff(attempts=100, first_s=1.0, longest_s=1.0)).drain(WAIT_S)
    assert (counts.produced, counts.retries, counts.set_aside) == (40, attempts - 1, 0)


def test_cannot_continue_leaves_the_record_for_the_next_start(topics: WorkerTopics) -> None:
    queries = topics.ask(10)
    fatal = queries[5].query_id
    draft = draft_handler(topics.drafts)

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        if incoming.message.query_id == fatal:
            raise CannotContinue("wrong key")
        return await draft(incoming)

    with pytest.raises(CannotContinue, match="wrong key"):
        topics.worker(handle).drain(WAIT_S)
    assert topics.worker(draft).drain(WAIT_S).read >= 1
    assert set(ce_ids(topics.answers(10))) == draft_ids(queries)


def test_a_run_of_malformed_records_is_set_aside_and_the_worker_continues(topics: WorkerTopics) -> None:
    to = producer(topics.settings, "test")
    for _ in range(30):
        to.send(topics.name, key=b"k", value=b"no json")  # one key, one partition, one poll
    to.close()
    running = WorkerThread(topics.worker(draft_handler(topics.drafts)))
    assert len(topics.dead_letters(30)) == 30
    queries = topics.ask(5)
    assert set(ce_ids(topics.answers(5))) == draft_ids(queries)
    counts = running.end()
    assert (counts.set_aside, counts.produced) == (30, 5)


def test_a_worker_whose_records_mostly_fail_commits_them_and_stops(topics: WorkerTopics) -> None:
    topics.ask(200)

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        raise ZeroDivisionError

    worker = topics.worker(handle)
    with pytest.raises(CannotContinue, match=f"{topics.name}-dlt"):
        worker.drain(WAIT_S)
    assert 20 <= worker.counts.set_aside < 200
    assert len(topics.dead_letters(worker.counts.set_aside)) == worker.counts.set_aside
    assert topics.worker(draft_handler(topics.drafts)).drain(WAIT_S).read < 200


def test_a_missing_topic_stops_the_worker_with_its_name(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.worker.TOPIC_WITHIN_S", 1.0)
    absent = Topic("absent", Query, "", "", "")
    with pytest.raises(CannotContinue, match="lacks topics absent: create them with `retouch topics apply`"):
        Worker(settings, HandlerSpec("absent", absent, draft_handler(DRAFTS))).drain(WAIT_S)


class WorkerThread:
    """A worker that runs in a thread."""

    def __init__(self, worker: Worker[Query]) -> None:
        self.worker, self.stop, self.ready = worker, threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run(self.stop, self.ready.set)
        except BaseException as error:
            self.error = error

    def end(self) -> WorkerCounts:
        self.stop.set()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error
        return self.worker.counts


def test_workers_join_and_leave_and_no_record_is_lost(topics: WorkerTopics) -> None:
    first = WorkerThread(topics.worker(draft_handler(topics.drafts, longest_s=0.3), instance="one"))
    assert first.ready.wait(WAIT_S)
    queries = topics.ask(300)
    second = WorkerThread(topics.worker(draft_handler(topics.drafts, longest_s=0.3), instance="two"))
    assert second.ready.wait(WAIT_S)
    queries += topics.ask(300)
    deadline = time.monotonic() + WAIT_S
    while not second.worker.counts.read:  # it joins before the first worker gives up partitions
        assert time.monotonic() < deadline
        queries += topics.ask(20)
    expected = draft_ids(queries)
    drafts = records(topics.settings, topics.drafts.name, lambda drafts: expected <= set(ce_ids(drafts)))
    assert set(ce_ids(drafts)) == expected
    counts = first.end()
    queries = topics.ask(50)  # the partitions of a worker that left move to the other one
    records(topics.settings, topics.drafts.name, lambda drafts: draft_ids(queries) <= set(ce_ids(drafts)))
    assert counts.read > 0
    assert second.end().read > 50


def test_of_two_processes_with_one_name_the_first_ends(topics: WorkerTopics) -> None:
    first = WorkerThread(topics.worker(draft_handler(topics.drafts), instance="same"))
    assert first.ready.wait(WAIT_S)
    second = WorkerThread(topics.worker(draft_handler(topics.drafts), instance="same"))
    assert second.ready.wait(WAIT_S)
    first.thread.join(WAIT_S)
    assert isinstance(first.error, CannotContinue)
    assert "kafka.instance" in str(first.error)
    second.end()


def test_a_stop_finishes_running_records_and_leaves_the_rest(topics: WorkerTopics) -> None:
    queries = topics.ask(100)
    running = WorkerThread(topics.worker(draft_handler(topics.drafts, longest_s=1.0), concurrency=4))
    assert running.ready.wait(WAIT_S)
    records(topics.settings, topics.drafts.name, bool)
    counts = running.end()
    assert 0 < counts.produced < 100
    assert counts.produced + counts.abandoned == counts.read
    topics.worker(draft_handler(topics.drafts)).drain(WAIT_S)
    assert ce_ids(topics.answers(100)) == Counter(draft_ids(queries))


# Processes, as deployed


def base_worker(settings: Settings, folder: Path, base_url: str, **more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return process(settings, folder, "workers", "base", base_url=base_url, RETOUCH_BASE__ATTEMPTS="2", **more)


def drafts_of(settings: Settings, queries: Sequence[Query]) -> list[Any]:
    expected = draft_ids(queries)
    drafts = records(settings, DRAFTS.name, lambda drafts: expected <= set(ce_ids(drafts)))
    return [record for record in drafts if dict(record.headers).get("ce_id", b"").decode() in expected]


def answer_slowly(body: dict[str, Any]) -> ScriptedAnswer:
    time.sleep(0.2)
    return completion(" Comedy ")


def test_a_killed_base_worker_loses_nothing_and_answers_once(settings: Settings, tmp_path: Path) -> None:
    with serving(answer_slowly) as endpoint:
        queries: list[Query] = []
        for _ in range(2):
            with base_worker(settings, tmp_path, endpoint.url, RETOUCH_BASE__CONCURRENCY="8") as running:
                before = len(endpoint.requests)
                queries += ask(settings, QUERIES, 60)
                deadline = time.monotonic() + WAIT_S
                while len(endpoint.requests) < before + 20:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                running.send_signal(signal.SIGKILL)
        with base_worker(settings, tmp_path, endpoint.url, RETOUCH_BASE__CONCURRENCY="8"):
            drafted = drafts_of(settings, queries)
    drafts = [Draft.from_bytes(record.value) for record in drafted]
    assert {(draft.answer, draft.status) for draft in drafts} == {("Comedy", DraftStatus.DRAFTED)}
    assert Counter(draft.query.query_id for draft in drafts) == Counter(query.query_id for query in queries)


def test_a_base_worker_paused_beyond_its_session_continues_and_repeats_nothing(settings: Settings, tmp_path: Path) -> None:
    """The group takes away its partitions during the pause. Records that it held are answered once."""
    with serving(answer_slowly) as endpoint, base_worker(settings, tmp_path, endpoint.url, RETOUCH_BASE__CONCURRENCY="8") as running:
        queries = ask(settings, QUERIES, 40)
        drafts_of(settings, queries[:1])
        running.send_signal(signal.SIGSTOP)
        time.sleep(8.0)
        running.send_signal(signal.SIGCONT)
        queries += ask(settings, QUERIES, 20)
        drafted = drafts_of(settings, queries)
        assert running.poll() is None
    assert Counter(Draft.from_bytes(record.value).query.query_id for record in drafted) == Counter(query.query_id for query in queries)


def test_a_base_worker_finishes_on_sigterm_and_exits_with_zero(settings: Settings, tmp_path: Path) -> None:
    with serving(answer_slowly) as endpoint, base_worker(settings, tmp_path, endpoint.url) as running:
        before = len(endpoint.requests)
        queries = ask(settings, QUERIES, 10)
        deadline = time.monotonic() + WAIT_S
        while len(endpoint.requests) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(WAIT_S) == 0
        assert time.monotonic() - began < settings.stack.stop_timeout_s
        asked_after = len(endpoint.requests)
    with serving(answer_slowly) as endpoint, base_worker(settings, tmp_path, endpoint.url):
        drafted = ce_ids(drafts_of(settings, queries))
        assert asked_after + len(endpoint.requests) >= 10
    assert all(times == 1 for times in drafted.values()), "a record in flight at the stop was answered twice"


def test_queries_that_fail_while_others_succeed_get_base_failed_drafts(settings: Settings, tmp_path: Path) -> None:
    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        return completion("ok") if body["messages"][0]["content"] == HEALTH_CHECK_PROMPT else failure(500)

    with serving(respond) as endpoint, base_worker(settings, tmp_path, endpoint.url):
        queries = ask(settings, QUERIES, 5)
        drafts = [Draft.from_bytes(record.value) for record in drafts_of(settings, queries)]
    assert {(draft.status, draft.answer, draft.failure) for draft in drafts} == {(DraftStatus.BASE_FAILED, "", "server_error")}


def test_a_base_worker_does_not_start_with_a_key_that_is_refused(settings: Settings, tmp_path: Path) -> None:
    with (
        serving(scripted(failure(401))) as endpoint,
        pytest.raises(AssertionError, match=r"workers base: check base\.api_key"),
        base_worker(settings, tmp_path, endpoint.url),
    ):
        pass
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("status", "reason"), [(402, "no credit"), (503, "is away: server_error, status 503")])
def test_queries_wait_while_the_endpoint_fails_for_every_prompt(settings: Settings, tmp_path: Path, status: int, reason: str) -> None:
    answers = {"is": completion("ok")}

    def wait_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with (
        serving(lambda body: answers["is"]) as endpoint,
        base_worker(settings, tmp_path, endpoint.url, RETOUCH_BASE__BREAKER_OPEN_S="0.2"),
    ):
        answers["is"] = failure(status)
        queries = ask(settings, QUERIES, 8)
        wait_until(lambda: any(reason in path.read_text() for path in tmp_path.glob("*/ready.blocked")))
        before = len(endpoint.requests)
        wait_until(lambda: len(endpoint.requests) > before + 3)  # health checks: more than a query has attempts
        answers["is"] = completion("ok")
        drafts = [Draft.from_bytes(record.value) for record in drafts_of(settings, queries)]
        wait_until(lambda: not any(tmp_path.glob("*/ready.blocked")))
    assert [draft.answer for draft in drafts] == ["ok"] * 8


@pytest.mark.slow
@pytest.mark.timeout(400)  # two processes import torch and transformers, a minute each on a busy machine
def test_the_base_endpoint_serves_a_checkpoint(settings: Settings, tmp_path: Path) -> None:
    from tests.support.tiny_model import make_checkpoint

    checkpoint = make_checkpoint(tmp_path / "base", seed=0)
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}/v1"
    with process(settings, tmp_path, "pico.server", base_url=url, RETOUCH_BASE__CHECKPOINT=str(checkpoint)) as running:
        body = {"model": "pico-base", "messages": [{"role": "user", "content": "tag : the sea"}], "max_tokens": 5}
        answers = [httpx.post(f"{url}/chat/completions", json=body, timeout=WAIT_S, trust_env=False).json() for _ in range(2)]
        running.send_signal(signal.SIGTERM)
        assert running.wait(WAIT_S) == 0
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"]["completion_tokens"] <= 5


def test_a_broker_that_begins_no_transaction_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One broker whose transaction log needs three. It answers everything else."""
    monkeypatch.setitem(FIXED_PROPERTIES, "transaction.state.log.replication.factor", "3")
    monkeypatch.setattr("workers.runtime.commit_loop.RECOVER_WITHIN_S", 1.0)
    monkeypatch.setattr("workers.runtime.commit_loop.COMMIT_WITHIN_S", 1.0)
    with Broker(load(stack={"dir": tmp_path / "broker"})) as broker:
        settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers})
        apply_topology(settings)
        worker: Worker[Query] = Worker(settings, HandlerSpec("none", QUERIES, draft_handler(DRAFTS)))
        with pytest.raises(CannotContinue, match=r"begins no transaction.*transaction\.state\.log\.replication\.factor"):
            worker.drain(WAIT_S)
