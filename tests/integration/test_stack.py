"""The real stack: interrupted and killed while it starts, no process and no lock may stay; a process that keeps dying stops no other."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from cli.app import app
from infra.errors import BadSetting, CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.topic_reader import TopicReader
from infra.local import Stack
from infra.local.stack_record import StackState, lock_path, read_record
from infra.process.environment import environment
from infra.process.file_lock import holder
from infra.settings import Settings, load
from schemas.drafts import Draft
from schemas.envelope import read_message
from schemas.queries import Query
from schemas.topics import DRAFTS, OUTCOMES, QUERIES
from tests.support.openai_server import completion, failure, serving
from tests.support.own_broker import own_broker
from tests.support.segment_files import damage, unknown_codec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BOUND_S = 90.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a stack that has started the broker and other processes."""
    settings = load(stack={"dir": tmp_path / "state"})
    with (
        (tmp_path / "output").open("wb") as output,
        subprocess.Popen([sys.executable, "-m", "infra.local"], env=environment(settings), stdout=output, stderr=output) as process,
    ):
        deadline = time.monotonic() + BOUND_S
        while len(psutil.Process(process.pid).children()) < 3:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.05)
        yield process
        process.kill()


def test_an_interrupt_while_starting_leaves_no_process_and_no_lock(supervisor: subprocess.Popen[bytes], tmp_path: Path) -> None:
    children = psutil.Process(supervisor.pid).children(recursive=True)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(BOUND_S) == 0
    assert _have_ended(children)
    assert not (tmp_path / "state" / "lock").exists() and not (tmp_path / "state" / "stack.json").exists()


def test_processes_and_lock_of_a_killed_supervisor_go_with_it(supervisor: subprocess.Popen[bytes], tmp_path: Path) -> None:
    children = psutil.Process(supervisor.pid).children(recursive=True)
    assert holder(lock_path(tmp_path / "state")) == supervisor.pid
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait(BOUND_S)
    assert _have_ended(children)
    assert holder(lock_path(tmp_path / "state")) is None and read_record(tmp_path / "state") is None


def test_a_taken_broker_port_ends_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=f"stack.broker_port={port}: port is taken"):
            Stack(load(stack={"dir": tmp_path, "broker_port": port})).start()
    assert not lock_path(tmp_path).exists()


def test_a_broker_that_cannot_start_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    """The ports of an earlier start are taken now."""
    (tmp_path / "kafka").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "kafka" / "server.properties").write_text(f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port}\n")
        with pytest.raises(CannotContinue, match=rf"broker failed ([3-9]|[1-9][0-9]+) times in a row, last: port {port} on 127.0.0.1 is taken"):
            Stack(load(stack={"dir": tmp_path}), only={"broker", "base"}).start()
    failed = read_record(tmp_path)
    assert failed is not None and failed.state is StackState.FAILED
    assert not lock_path(tmp_path).exists()


SOURCES = """
[[sources]]
topic = "shop.questions"
message = "query"
fields = { user = "value.user", text = "value.text", asked_at = "record.timestamp" }
constants = { tenant = "shop", domain = "general" }
"""


@pytest.fixture
def sources_file(tmp_path: Path) -> Path:
    file = tmp_path / "sources.toml"
    file.write_text(SOURCES, encoding="utf-8")
    return file


def test_a_stack_with_its_own_broker_maps_records_of_a_platform(tmp_path: Path, sources_file: Path) -> None:
    """Its broker begins without topics, and a second start finds the platform's."""
    configured = load(stack={"dir": tmp_path / "state"}, sources={"file": sources_file}, kafka={"topic_prefix": "team."})
    for number in range(2):
        with Stack(configured, only={"broker", "sources"}) as stack, closing(producer(stack.settings, "test")) as sender:
            sender.send("shop.questions", key=b"ada", value=json.dumps({"user": "ada", "text": f"is it {number}?"}).encode()).get(timeout=BOUND_S)
            assert [query.text for query in _queries(stack.settings, number + 1)] == [f"is it {each}?" for each in range(number + 1)]


def test_a_platforms_topic_that_is_missing_ends_the_start_and_is_named(settings: Settings, tmp_path: Path, sources_file: Path) -> None:
    topic = f"shop.{uuid4().hex[:8]}"
    sources_file.write_text(SOURCES.replace("shop.questions", topic), encoding="utf-8")
    problem = rf"the broker at .* lacks topics {topic}: the platform creates them, or {sources_file} is wrong"
    with pytest.raises(CannotContinue, match=problem):
        Stack(settings.changed(sources={"file": sources_file}), only={"sources"}).start()
    assert not lock_path(settings.stack.dir).exists()


def test_status_says_what_is_down_or_blocked_while_questions_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's topic begins with a batch that no reader can decode; later the endpoint refuses its key."""
    monkeypatch.setenv("RETOUCH_STACK__DIR", str(tmp_path / "state"))
    with own_broker(tmp_path / "broker") as broker, serving(lambda body: completion("yes")) as endpoint:
        settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers}, base={"url": endpoint.url, "model": "m"}, stack={"dir": tmp_path / "state"})
        with closing(producer(settings, "test")) as sender, running(Stack(settings, only={"base", "teacher"})) as stack:
            sender.send(OUTCOMES.name, b"not of this world", partition=0).get(timeout=BOUND_S)
            damage(broker.dir / "data", OUTCOMES.name, 0, 0, unknown_codec)
            stack.launch()
            code, output = _status_once(lambda output: "teacher is down" in output and "base ready" in output)
            assert code == 1
            assert re.search(r"teacher is down, exit code 1: .*outcomes/0/0 cannot be decoded.*; starts again .*; log: .*teacher\.log", output)
            pid = _pid(stack, "base")
            assert _draft_of(settings, _ask(sender)).answer == "yes"
            endpoint.respond = lambda body: failure(401)
            _ask(sender)
            code, output = _status_once(lambda output: "base makes no progress: " in output)
            assert code == 1 and re.search(r"base makes no progress: .*401.*; log: .*base\.log", output)
            assert _pid(stack, "base") == pid


def _pid(stack: Stack, name: str) -> int | None:
    return next(process.pid for process in stack.processes if process.name == name)


def _ask(sender: KafkaProducer) -> Query:
    query = Query(query_id=uuid4(), tenant="local", user="ada", domain="general", text="is anyone there?", asked_at=datetime.now(UTC))
    send(sender, QUERIES, query, id=query.query_id, source="/test").get(timeout=BOUND_S)
    return query


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Stops the stack after the block, which launches it."""
    try:
        yield stack
    finally:
        stack.stop()


def _status_once(holds: Callable[[str], bool]) -> tuple[int, str]:
    """Exit code and output of `retouch status`, with single blanks, once `holds` is true for them."""
    deadline = time.monotonic() + BOUND_S
    while True:
        result = CliRunner().invoke(app, ["status"])
        output = re.sub(" +", " ", result.stdout)
        if holds(output):
            return result.exit_code, output
        assert time.monotonic() < deadline, output
        time.sleep(0.1)


def _queries(settings: Settings, count: int) -> list[Query]:
    """All queries on the broker in the order of one user, once there are `count`."""
    deadline = time.monotonic() + BOUND_S
    with TopicReader(settings, "test", timeout_s=BOUND_S) as reader:
        while len(records := list(reader.read(reader.ranges(QUERIES.name)))) < count:
            assert time.monotonic() < deadline, f"{len(records)} queries, expected {count}"
            time.sleep(0.1)
    return [read_message(Query, record.headers, record.value)[0] for record in records]


def _draft_of(settings: Settings, query: Query) -> Draft:
    deadline = time.monotonic() + BOUND_S
    with TopicReader(settings, "test", timeout_s=BOUND_S) as reader:
        reader.follow(DRAFTS.name)
        while time.monotonic() < deadline:
            for record in reader.poll(0.2):
                draft, _ = read_message(Draft, record.headers, record.value)
                if draft.query.query_id == query.query_id:
                    return draft
    raise AssertionError("no draft")


def _have_ended(processes: list[psutil.Process]) -> bool:
    """Whether all have ended. Without a process that adopts orphans they stay zombies."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)
