"""`retouch dlq` on a real broker: letters come back byte for byte, once, whatever interrupts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from kafka import TopicPartition
from typer.testing import CliRunner

from cli.app import app
from infra.errors import CannotContinue
from infra.kafka.clients import admin, groupless_consumer, producer
from infra.kafka.dead_letter_topics import DeadLetterTopics, TransactionalOutbox, answering
from infra.kafka.dead_letters import CHUNK_LETTERS, Place, deliver, plan
from infra.settings import Settings
from schemas.dead_letters import Origin, dead_letter
from schemas.topics import MAX_MESSAGE_BYTES, dead_letter_topic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

Sent = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes]]]  # partition, timestamp, key, value, headers


@dataclass(frozen=True)
class Desk:
    """A topic of a test's own with its dead-letter topic, and the command line."""

    settings: Settings
    topic: str

    def set_aside(self, *records: Sent, error: Exception | None = None, topic: str | None = None) -> None:
        """As a worker does it, from offset 100 on."""
        to = producer(self.settings, "test", max_request_size=MAX_MESSAGE_BYTES + 65_536)
        for number, (partition, timestamp, key, value, headers) in enumerate(records):
            origin = Origin(topic or self.topic, partition, 100 + number, timestamp, "retouch-test")
            letter = dead_letter(origin, key, value, headers, error or ValueError("bad shape"))
            to.send(letter.topic, key=letter.key, value=letter.value, headers=letter.headers, partition=0).get(timeout=30)
        to.close()

    def run(self, *arguments: str) -> tuple[int, Any]:
        result = CliRunner().invoke(app, ["dlq", *arguments, "--json"])
        return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr

    def redrive(self, *arguments: str) -> tuple[int, Any]:
        return self.run("redrive", "--topic", self.topic, *arguments)

    def id(self, offset: int) -> str:
        return f"{self.topic}-dlt/0/{offset}"

    def came_back(self) -> list[Sent]:
        """Committed records alone, and all of them: the broker writes the marks of an end a moment after the producer has heard of it."""
        with closing(groupless_consumer(self.settings, "test", isolation_level="read_uncommitted")) as whole:
            places = [TopicPartition(self.topic, number) for number in sorted(whole.partitions_for_topic(self.topic))]
            ends = whole.end_offsets(places)
        consumer = groupless_consumer(self.settings, "test")
        try:
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            found: list[Sent] = []
            while any(consumer.position(place) < end for place, end in ends.items()):
                for batch in consumer.poll(timeout_ms=200).values():
                    found += [(r.partition, r.timestamp, r.key, r.value, list(r.headers)) for r in batch]
            return found
        finally:
            consumer.close()


@pytest.fixture
def desk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", settings.bootstrap_servers())
    monkeypatch.setenv("RETOUCH_STACK__DIR", str(settings.stack.dir))
    topic = f"d{uuid.uuid4().hex[:10]}"
    names = [topic, dead_letter_topic(topic)]
    client = admin(settings)
    client.create_topics({name: {"num_partitions": 2, "replication_factor": 1} for name in names})
    client.wait_for_topics(names)
    yield Desk(settings, topic)
    client.delete_topics(names)
    client.close()


def simple(number: int) -> Sent:
    return (0, 1_790_000_000_000 + number, b"k%d" % number, b"v%d" % number, [("n", b"%d" % number)])


def test_letters_come_back_byte_for_byte(desk: Desk) -> None:
    again = dead_letter(Origin("other", 1, 2, 3, "g"), None, None, [], KeyError("before")).headers
    records: list[Sent] = [
        (1, 1_790_000_000_001, b"\x00\xffkey", b"\x00\xfe\xff", [("a", b"1"), ("b", b"\xff"), ("a", b"2"), ("", b"")]),
        (1, 1_790_000_000_000, b"tombstone", None, []),
        (1, 1_790_000_000_005, None, b"no key", [("ce_id", b"7"), *again]),
        (0, 1_790_000_000_009, b"", b"", []),
        (0, 1_790_000_000_010, b"large", b"x" * 1_048_000, []),
    ]
    desk.set_aside(*records)
    code, told = desk.redrive()
    assert (code, told["redriven"], told["foreign"]) == (0, 5, [])
    assert desk.came_back() == sorted(records, key=lambda record: record[0])
    assert desk.redrive() == (0, {"dry_run": False, "redriven": 0, "letters": [], "already": 5, "foreign": []})
    assert len(desk.came_back()) == 5
    assert desk.redrive("--again", "--limit", "1")[1]["redriven"] == 1


def test_records_go_back_in_their_original_order_though_set_aside_in_another(desk: Desk) -> None:
    to = producer(desk.settings, "test")
    for offset in (12, 10, 11, 10):  # a worker that died wrote the record at 10 twice
        letter = dead_letter(Origin(desk.topic, 0, offset, offset, "g"), b"k", b"%d" % offset, [], ValueError())
        to.send(letter.topic, key=letter.key, value=letter.value, headers=letter.headers, partition=offset % 2).get(timeout=30)
    to.close()
    assert desk.redrive()[1]["redriven"] == 3
    assert [value for _, _, _, value, _ in desk.came_back()] == [b"10", b"11", b"12"]
    assert desk.redrive()[1]["already"] == 4


def test_filters_choose_and_a_dry_run_changes_nothing(desk: Desk) -> None:
    desk.set_aside(simple(0), simple(1), error=ValueError("bad shape"))
    desk.set_aside(simple(2), error=KeyError("missing"))
    assert desk.redrive("--reason", "KEYERROR", "--dry-run")[1]["letters"][0]["id"] == desk.id(2)
    assert desk.redrive("--until", "1d")[1]["redriven"] == 0
    assert desk.came_back() == []
    assert desk.redrive("--reason", "keyerror", "--since", "10m")[1]["redriven"] == 1
    assert desk.came_back() == [simple(2)]
    code, told = desk.run("list", "--topic", f"{desk.topic}-dlt", "--limit", "1")
    assert (code, told["total"], [row["id"] for row in told["letters"]]) == (0, 2, [desk.id(1)])
    assert told["counts"] == [{"topic": f"{desk.topic}-dlt", "reason": "builtins.ValueError: bad shape", "letters": 2}]
    everything = desk.run("list", "--topic", desk.topic, "--again")[1]
    assert (everything["total"], everything["letters"][0]["sent_as"]) == (3, f"{desk.topic}/0/0")
    assert "v0" not in json.dumps(everything) and "k0" not in json.dumps(everything)


def test_one_letter_is_shown_whole_and_others_are_left_alone(desk: Desk) -> None:
    desk.set_aside(simple(0), (1, -1, b"\xff", "ünï\x1b".encode(), [("empty", b"")]))
    code, told = desk.run("show", desk.id(1))
    assert code == 0
    assert (told["key"], told["value"]) == ({"encoding": "base64", "content": "/w=="}, {"encoding": "utf-8", "content": "ünï\x1b"})
    assert {"name": "kafka_dlt-original-offset", "encoding": "integer", "content": 101} in told["dead_letter_headers"]
    assert len(told["notes"]) == 2
    assert desk.run("redrive", desk.id(1))[1]["redriven"] == 1
    assert [key for _, _, key, _, _ in desk.came_back()] == [b"\xff"]
    assert desk.run("redrive", desk.id(1)) == (0, {"dry_run": False, "redriven": 0, "letters": [], "already": 1, "foreign": []})
    text = CliRunner().invoke(app, ["dlq", "show", desk.id(1)]).stdout
    assert "ünï\\x1b" in text and "\x1b" not in text


def test_what_is_not_ours_is_listed_and_shown_and_never_sent(desk: Desk) -> None:
    to = producer(desk.settings, "test")
    to.send(f"{desk.topic}-dlt", key=b"k", value=b"foreign", headers=[("kafka_dlt-original-topic", desk.topic.encode())], partition=0).get(timeout=30)
    to.close()
    desk.set_aside(simple(0))
    assert any(row["reason"].startswith("foreign: ") for row in desk.run("list", "--topic", desk.topic)[1]["counts"])
    assert desk.run("show", desk.id(0))[1]["value"]["content"] == "foreign"
    code, error = desk.run("redrive", desk.id(0), desk.id(1))
    assert code == 1 and "not those that Retouch adds" in error and desk.came_back() == []
    code, told = desk.redrive()
    assert (code, told["redriven"], [letter["id"] for letter in told["foreign"]]) == (0, 1, [desk.id(0)])


def test_what_does_not_exist_is_named(desk: Desk) -> None:
    desk.set_aside(simple(0), (9, 1, b"k", b"v", []))
    assert desk.run("show", desk.id(77)) == (1, f"retouch: no such dead letter: {desk.id(77)}; `retouch dlq list` shows those that there are\n")
    assert desk.run("redrive", desk.id(0), f"{desk.topic}-dlt/5/0")[0] == 1
    code, error = desk.run("list", "--topic", "nowhere")
    assert code == 2 and f"{desk.topic}-dlt" in error and error.count("\n") == 1
    assert desk.run("show", "nowhere-dlt/0/0")[0] == 2
    code, error = desk.redrive()
    assert code == 1 and f"partition 9 of {desk.topic}, which has 2 partitions; nothing was sent" in error
    assert desk.came_back() == []


def interrupting(after: int) -> Callable[[int], None]:
    def sent(count: int) -> None:
        nonlocal after
        after -= 1
        if after == 0:
            raise KeyboardInterrupt

    return sent


def test_interrupted_between_chunks_the_next_redrive_sends_the_rest(desk: Desk) -> None:
    desk.set_aside(*map(simple, range(7)))
    with closing(DeadLetterTopics(desk.settings)) as topics, closing(TransactionalOutbox(desk.settings)) as outbox:
        errands = plan(topics.scan([f"{desk.topic}-dlt"]), topics.marks(), again=False).errands
        with pytest.raises(KeyboardInterrupt):
            deliver(topics, outbox, errands, interrupting(2), size=2)
    assert desk.came_back() == [simple(number) for number in range(4)]
    assert desk.redrive()[1]["redriven"] == 3
    assert desk.came_back() == [simple(number) for number in range(7)]


def test_interrupted_inside_a_transaction_nothing_of_it_is_seen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.set_aside(*map(simple, range(3)))
    with closing(DeadLetterTopics(desk.settings)) as topics:
        errands = plan(topics.scan([f"{desk.topic}-dlt"]), topics.marks(), again=False).errands
        died = TransactionalOutbox(desk.settings)
        commit = died.producer.commit_transaction
        monkeypatch.setattr(died.producer, "commit_transaction", lambda: None)  # everything but the commit has happened
        deliver(topics, died, errands, lambda count: None)
        assert desk.redrive()[1]["redriven"] == 3
        with pytest.raises(CannotContinue, match="another"), answering(desk.settings):
            commit()
        died.close()
    assert desk.came_back() == [simple(number) for number in range(3)]


def test_more_letters_than_a_transaction_takes(desk: Desk) -> None:
    count = CHUNK_LETTERS + 20
    to = producer(desk.settings, "test")
    for number in range(count):
        letter = dead_letter(Origin(desk.topic, number % 2, number, number, "g"), b"k", b"%d" % number, [], ValueError())
        to.send(letter.topic, key=letter.key, value=letter.value, headers=letter.headers)
    to.close()
    assert desk.redrive()[1]["redriven"] == count
    values = [int(value or b"-1") for _, _, _, value, _ in desk.came_back()]
    assert sorted(values) == list(range(count))


def test_letters_far_apart_are_found(desk: Desk) -> None:
    desk.set_aside(*[simple(number) for number in range(230)])
    with closing(DeadLetterTopics(desk.settings)) as topics:
        wanted = {Place(f"{desk.topic}-dlt", 0, offset) for offset in (0, 1, 220, 229, 4000)}
        assert sorted(place.offset for place in topics.fetch(wanted)) == [0, 1, 220, 229]
