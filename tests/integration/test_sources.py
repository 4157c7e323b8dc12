"""A platform's own topics on a real broker, read by the worker's process: JSON and Avro are mapped, a bad record becomes a dead letter, and a redrive after a
correction of the file succeeds. The deployment has a topic prefix, which the platform's topics do not get."""

from __future__ import annotations

import io
import json
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastavro
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from typer.testing import CliRunner

from cli.app import app
from infra.kafka.topic_reader import TopicReader
from infra.kafka.topology import apply_topology
from infra.settings import Settings, load
from schemas.envelope import read_envelope
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.queries import Query
from schemas.topics import INTERACTIONS, QUERIES
from tests.support.schema_registry import StubRegistry, framed, stub_registry
from tests.support.worker_process import USERS_TEXT, process

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

WAIT_S = 90.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASKED = {
    "type": "record",
    "name": "Asked",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "user", "type": "string"},
        {"name": "text", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
SOURCES = """
[[sources]]
topic = "{reviews}"
message = "interaction"
when = "value.type == 'review'"
fields = {{ user = "string(value.user_id)", content = "value.text", response = "string(value.stars)", occurred_at = "{occurred_at}" }}
constants = {{ tenant = "shop", domain = "product_rating" }}
[[sources]]
topic = "{questions}"
format = "avro"
message = "query"
fields = {{ query_id = "value.id", user = "value.user", text = "value.text", asked_at = "value.at" }}
constants = {{ tenant = "shop", domain = "product_rating" }}
"""


class Platform:
    """Two topics of a platform, the file that maps them, and a deployment with a prefix."""

    def __init__(self, settings: Settings, folder: Path, registry: StubRegistry) -> None:
        run = uuid.uuid4().hex[:8]
        # It ends like a declared topic, as another deployment's topics do.
        self.reviews, self.questions = f"shop{run}.feedback", f"shop{run}.questions"
        self.folder, self.file, self.registry = folder, folder / "sources.toml", registry
        self.map("epoch_millis(value.at)")
        kafka = {"bootstrap_servers": settings.bootstrap_servers(), "topic_prefix": f"team{run}.", "group_prefix": f"team{run}-"}
        self.settings = load(kafka=kafka, stack={"dir": folder / "state"}, sources={"file": self.file, "registry_url": registry.url})
        self.environment = {f"RETOUCH_KAFKA__{key.upper()}": value for key, value in kafka.items() if key != "bootstrap_servers"}
        self.environment |= {"RETOUCH_SOURCES__FILE": str(self.file), "RETOUCH_SOURCES__REGISTRY_URL": registry.url}

    def map(self, occurred_at: str) -> None:
        self.file.write_text(SOURCES.format(reviews=self.reviews, questions=self.questions, occurred_at=occurred_at))

    def review(self, user: int, **changes: object) -> bytes:
        return json.dumps({"type": "review", "user_id": user, "text": USERS_TEXT, "stars": 4, "at": 1_767_225_600_000} | changes).encode()

    def write(self, topic: str, *values: bytes | None, key: bytes = b"k") -> None:
        writer = KafkaProducer(bootstrap_servers=self.settings.bootstrap_servers())
        for value in values:
            writer.send(topic, key=key, value=value, headers=[("traceparent", TRACE.encode())])
        writer.flush()
        writer.close()

    @contextmanager
    def worker(self, instance: str = "test") -> Iterator[subprocess.Popen[bytes]]:
        environment = self.environment | {"RETOUCH_KAFKA__INSTANCE": instance}
        with process(self.settings, self.folder, "workers", "sources", base_url="http://127.0.0.1:9/v1", **environment) as started:
            yield started

    def records(self, topic: str, count: int, matches: Callable[[Any], bool] = lambda record: True) -> Sequence[Any]:
        """The matching records of a topic, once there are `count`."""
        with TopicReader(self.settings, "test-reader") as reader:
            reader.follow(topic)
            found: list[Any] = []
            until = time.monotonic() + WAIT_S
            while len(found) < count and time.monotonic() < until:
                found += [record for record in reader.poll(0.2) if matches(record)]
            found += [record for record in reader.poll(1.0) if matches(record)]
        assert len(found) == count, f"{len(found)} records of {topic}, expected {count}"
        return found

    def messages(self, topic: str, kind: type[Message], count: int) -> list[Any]:
        return [kind.from_bytes(record.value) for record in self.records(topic, count)]


@pytest.fixture
def platform(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with stub_registry() as registry:
        registry.schemas[7] = {"schema": json.dumps(ASKED)}
        made = Platform(settings, tmp_path, registry)
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", made.settings.bootstrap_servers())
        monkeypatch.setenv("RETOUCH_STACK__DIR", str(made.settings.stack.dir))
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        client = KafkaAdminClient(bootstrap_servers=made.settings.bootstrap_servers())
        topics = {name: {"num_partitions": 2, "replication_factor": 1} for name in (made.reviews, made.questions)}
        client.create_topics(topics)
        client.wait_for_topics(list(topics))
        apply_topology(made.settings)
        yield made
        prefix = made.settings.kafka.topic_prefix
        client.delete_topics([name for name in client.list_topics() if name.startswith(prefix) or name in topics])
        client.close()


def retouch(*arguments: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr


def asked(id: int, at: int = 1_767_225_600_000) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(ASKED), {"id": id, "user": "ann", "text": USERS_TEXT, "at": at})
    return framed(7, stream.getvalue())


def test_json_and_avro_are_mapped_in_the_order_of_their_keys(platform: Platform) -> None:
    platform.write(platform.reviews, *(platform.review(1, text=f"{number}") for number in range(20)), None, platform.review(1, type="view"))
    platform.write(platform.questions, asked(1), asked(2))
    with platform.worker():
        interactions = platform.messages(INTERACTIONS.name, Interaction, 20)
        queries = platform.messages(QUERIES.name, Query, 2)
    assert [interaction.content for interaction in interactions] == [f"{number}" for number in range(20)]
    assert [query.text for query in queries] == [USERS_TEXT] * 2
    record = platform.records(QUERIES.name, 2)[0]
    envelope = read_envelope(record.headers)
    assert (record.key, envelope.type, envelope.source) == (b"shop/ann", "retouch.query.v1", "/workers/sources")
    assert envelope.traceparent.split("-")[1] == TRACE.split("-")[1]
    assert platform.registry.requests == ["/schemas/ids/7"]


def test_a_bad_record_is_a_dead_letter_until_the_file_is_corrected(platform: Platform) -> None:
    text_time = platform.review(2, at="2026-01-01T00:00:00Z")
    platform.write(platform.reviews, platform.review(1), text_time, b"{", platform.review(3))
    platform.write(platform.questions, framed(8, b""))
    with platform.worker():
        dead_letters = platform.records(f"{platform.reviews}-dlt", 2)
        platform.records(f"{platform.questions}-dlt", 1)
        assert len(platform.messages(INTERACTIONS.name, Interaction, 2)) == 2
    assert {record.value for record in dead_letters} == {text_time, b"{"}
    code, listed = retouch("dlq", "list")
    reasons = {entry["reason"].split(": ", 1)[1] for entry in listed["counts"]}
    not_mapped = "epoch_millis() takes a number of milliseconds since 1970 between the years 1 and 9999; the expression is epoch_millis(value.at)"
    assert code == 0
    assert reasons == {
        f"source {platform.reviews}, occurred_at: {not_mapped}",
        f"source {platform.reviews}, its value is no JSON: EOF while parsing an object at line 1 column 1",
        f"source {platform.questions}, the schema registry has no schema 8",
    }
    assert retouch("dlq", "redrive", "--all")[1]["redriven"] == 0  # a platform's topic has other readers

    platform.map("type(value.at) == 'int' ? epoch_millis(value.at) : timestamp(value.at)")
    code, redriven = retouch("dlq", "redrive", "--topic", platform.reviews, "--reason", "epoch_millis")
    assert (code, redriven["redriven"]) == (0, 1)
    with platform.worker():
        interactions = platform.messages(INTERACTIONS.name, Interaction, 3)
    assert sorted(interaction.user for interaction in interactions) == ["1", "2", "3"]


def test_records_wait_while_the_registry_is_away_and_others_go_on(platform: Platform) -> None:
    platform.registry.status = 503
    platform.write(platform.questions, asked(1))
    with platform.worker():
        platform.write(platform.reviews, platform.review(1))
        platform.messages(INTERACTIONS.name, Interaction, 1)
        assert platform.registry.requests
        platform.registry.status = None
        assert [query.user for query in platform.messages(QUERIES.name, Query, 1)] == ["ann"]


@pytest.mark.long("processes start, leave and die for a minute")
def test_processes_join_leave_and_die_and_each_record_is_mapped_once(platform: Platform) -> None:
    written = 0

    def write() -> None:
        nonlocal written
        for number in range(written, written + 20):
            platform.write(platform.reviews, platform.review(number, text=f"r{number}"), key=b"%d" % number)
            platform.write(platform.questions, asked(number), key=b"%d" % number)
        written += 20
        platform.records(INTERACTIONS.name, written)
        platform.records(QUERIES.name, written)

    with platform.worker("first") as first:
        write()
        with platform.worker("second") as second:
            write()
            first.terminate()
            assert first.wait(60) == 0
            write()
            with platform.worker("third"):
                write()
                second.kill()
                write()
    contents = Counter(interaction.content for interaction in platform.messages(INTERACTIONS.name, Interaction, written))
    assert contents == Counter(f"r{number}" for number in range(written))
    assert len({query.query_id for query in platform.messages(QUERIES.name, Query, written)}) == written


def test_a_dry_run_maps_the_newest_records_of_the_topic(platform: Platform) -> None:
    platform.write(platform.questions, *(asked(number) for number in range(5)), framed(9, b"x"))
    code, shown = retouch("sources", "check", "--topic", platform.questions, "--max", "3")
    assert code == 1
    assert (shown["records"], shown["mapped"], shown["failed"]) == (3, 2, 1)
    assert shown["results"][2]["reason"] == "the schema registry has no schema 9"
    assert shown["results"][0]["messages"][0]["data"]["text"] == USERS_TEXT
