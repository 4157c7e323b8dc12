"""`retouch dlq` on a real broker: dead letters are redriven byte for byte and once, also after interrupts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.errors import CannotContinue
from infra.kafka.clients import admin, producer
from infra.kafka.dead_letter_topics import DeadLetterReader, RedriveProducer, redrive_errors
from infra.kafka.dead_letters import BATCH_RECORDS, RecordId, plan_redrive, redrive_all
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.dead_letters import dead_letter
from schemas.records import ConsumedRecord
from schemas.topics import MAX_MESSAGE_BYTES, dead_letter_topic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

Sent = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes]]]  # partition, timestamp, key, value, headers


@dataclass(frozen=True)
class DeadLetterTopic:
    """A new topic with its dead-letter topic, and the commands for them."""

    settings: Settings
    topic: str

    def set_aside(self, *records: Sent, error: Exception | None = None, topic: str | None = None) -> None:
        """Write dead letters as a worker does, with original offsets from 100."""
        to = producer(self.settings, "test", max_request_size=MAX_MESSAGE_BYTES + 65_536)
        for number, (partition, timestamp, key, value, headers) in enumerate(records):
            original = ConsumedRecord(topic or self.topic, partition, 100 + number, timestamp, key, value, headers)
            record = dead_letter(original, "retouch-test", error or ValueError("bad shape"))
            to.send(record.topic, key=record.key, value=record.value, headers=record.headers, partition=0).get(timeout=30)
        to.close()

    def run(self, *arguments: str) -> tuple[int, Any]:
        result = CliRunner().invoke(app, ["dlq", *arguments, "--json"])
        return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr

    def redrive(self, *arguments: str) -> tuple[int, Any]:
        return self.run("redrive", "--topic", self.topic, *arguments)

    def id(self, offset: int) -> str:
        return f"{self.topic}-dlt/0/{offset}"

    def redriven(self) -> list[Sent]:
        """All committed records of the topic. Its end is read uncommitted: the broker writes a transaction's markers a moment after the commit returns."""
        with TopicReader(self.settings, "test", isolation_level="read_uncommitted") as whole, TopicReader(self.settings, "test") as reader:
            return [(r.partition, r.timestamp, r.key, r.value, list(r.headers)) for r in reader.read(whole.ranges(self.topic))]


@pytest.fixture
def dead_letters(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadLetterTopic]:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", settings.bootstrap_servers())
    monkeypatch.setenv("RETOUCH_STACK__DIR", str(settings.stack.dir))
    topic = f"d{uuid.uuid4().hex[:10]}"
    names = [topic, dead_letter_topic(topic)]
    client = admin(settings)
    # The records have old timestamps: with the broker's retention of seven days its cleaner deletes them while a test runs.
    configs = {"retention.ms": "-1"}
    client.create_topics({name: {"num_partitions": 2, "replication_factor": 1, "configs": configs} for name in names})
    client.wait_for_topics(names)
    yield DeadLetterTopic(settings, topic)
    client.delete_topics(names)
    client.close()


def simple(number: int) -> Sent:
    return (0, 1_790_000_000_000 + number, b"k%d" % number, b"v%d" % number, [("n", b"%d" % number)])


def test_dead_letters_are_redriven_byte_for_byte(dead_letters: DeadLetterTopic) -> None:
    twice_set_aside = dead_letter(ConsumedRecord("other", 1, 2, 3, None, None, ()), "g", KeyError("before")).headers
    records: list[Sent] = [
        (1, 1_790_000_000_001, b"\x00\xffkey", b"\x00\xfe\xff", [("a", b"1"), ("b", b"\xff"), ("a", b"2"), ("", b"")]),
        (1, 1_790_000_000_000, b"tombstone", None, []),
        (1, 1_790_000_000_005, None, b"no key", [("ce_id", b"7"), *twice_set_aside]),
        (0, 1_790_000_000_009, b"", b"", []),
        (0, 1_790_000_000_010, b"large", b"x" * 1_048_000, []),
    ]
    dead_letters.set_aside(*records)
    code, output = dead_letters.redrive()
    assert (code, output["redriven"], output["foreign"]) == (0, 5, [])
    assert dead_letters.redriven() == sorted(records, key=lambda record: record[0])
    assert dead_letters.redrive() == (0, {"dry_run": False, "redriven": 0, "letters": [], "already": 5, "foreign": []})
    assert len(dead_letters.redriven()) == 5
    assert dead_letters.redrive("--again", "--limit", "1")[1]["redriven"] == 1


def test_records_are_redriven_in_their_original_order(dead_letters: DeadLetterTopic) -> None:
    to = producer(dead_letters.settings, "test")
    for offset in (12, 10, 11, 10):  # a worker that died wrote the record at 10 twice
        written = dead_letter(ConsumedRecord(dead_letters.topic, 0, offset, offset, b"k", b"%d" % offset, ()), "g", ValueError())
        to.send(written.topic, key=written.key, value=written.value, headers=written.headers, partition=offset % 2).get(timeout=30)
    to.close()
    assert dead_letters.redrive()[1]["redriven"] == 3
    assert [value for _, _, _, value, _ in dead_letters.redriven()] == [b"10", b"11", b"12"]
    assert dead_letters.redrive()[1]["already"] == 4


def test_filters_select_and_a_dry_run_changes_nothing(dead_letters: DeadLetterTopic) -> None:
    dead_letters.set_aside(simple(0), simple(1), error=ValueError("bad shape"))
    dead_letters.set_aside(simple(2), error=KeyError("missing"))
    assert dead_letters.redrive("--reason", "KEYERROR", "--dry-run")[1]["letters"][0]["id"] == dead_letters.id(2)
    assert dead_letters.redrive("--until", "1d")[1]["redriven"] == 0
    assert dead_letters.redriven() == []
    assert dead_letters.redrive("--reason", "keyerror", "--since", "10m")[1]["redriven"] == 1
    assert dead_letters.redriven() == [simple(2)]
    code, output = dead_letters.run("list", "--topic", f"{dead_letters.topic}-dlt", "--limit", "1")
    assert (code, output["total"], [row["id"] for row in output["letters"]]) == (0, 2, [dead_letters.id(1)])
    assert output["counts"] == [{"topic": f"{dead_letters.topic}-dlt", "reason": "builtins.ValueError: bad shape", "letters": 2}]
    everything = dead_letters.run("list", "--topic", dead_letters.topic, "--again")[1]
    assert (everything["total"], everything["letters"][0]["sent_as"]) == (3, f"{dead_letters.topic}/0/0")
    assert "v0" not in json.dumps(everything) and "k0" not in json.dumps(everything)


def test_one_dead_letter_is_shown_whole_and_redriven_alone(dead_letters: DeadLetterTopic) -> None:
    dead_letters.set_aside(simple(0), (1, -1, b"\xff", "ünï\x1b".encode(), [("empty", b"")]))
    code, output = dead_letters.run("show", dead_letters.id(1))
    assert code == 0
    assert (output["key"], output["value"]) == ({"encoding": "base64", "content": "/w=="}, {"encoding": "utf-8", "content": "ünï\x1b"})
    assert {"name": "kafka_dlt-original-offset", "encoding": "integer", "content": 101} in output["dead_letter_headers"]
    assert len(output["notes"]) == 2
    assert dead_letters.run("redrive", dead_letters.id(1))[1]["redriven"] == 1
    assert [key for _, _, key, _, _ in dead_letters.redriven()] == [b"\xff"]
    assert dead_letters.run("redrive", dead_letters.id(1)) == (0, {"dry_run": False, "redriven": 0, "letters": [], "already": 1, "foreign": []})
    text = CliRunner().invoke(app, ["dlq", "show", dead_letters.id(1)]).stdout
    assert "ünï\\x1b" in text and "\x1b" not in text


def test_a_foreign_record_is_listed_and_shown_and_never_redriven(dead_letters: DeadLetterTopic) -> None:
    to = producer(dead_letters.settings, "test")
    to.send(f"{dead_letters.topic}-dlt", key=b"k", value=b"foreign", headers=[("kafka_dlt-original-topic", dead_letters.topic.encode())], partition=0).get(
        timeout=30
    )
    to.close()
    dead_letters.set_aside(simple(0))
    assert any(row["reason"].startswith("foreign: ") for row in dead_letters.run("list", "--topic", dead_letters.topic)[1]["counts"])
    assert dead_letters.run("show", dead_letters.id(0))[1]["value"]["content"] == "foreign"
    code, error = dead_letters.run("redrive", dead_letters.id(0), dead_letters.id(1))
    assert code == 1 and "not those that Retouch adds" in error and dead_letters.redriven() == []
    code, output = dead_letters.redrive()
    assert (code, output["redriven"], [written["id"] for written in output["foreign"]]) == (0, 1, [dead_letters.id(0)])


def test_a_dead_letter_that_does_not_exist_is_named(dead_letters: DeadLetterTopic) -> None:
    dead_letters.set_aside(simple(0), (9, 1, b"k", b"v", []))
    assert dead_letters.run("show", dead_letters.id(77)) == (
        1,
        f"retouch: no such dead letter: {dead_letters.id(77)}; `retouch dlq list` shows those that exist\n",
    )
    assert dead_letters.run("redrive", dead_letters.id(0), f"{dead_letters.topic}-dlt/5/0")[0] == 1
    code, error = dead_letters.run("list", "--topic", "nowhere")
    assert code == 2 and f"{dead_letters.topic}-dlt" in error and error.count("\n") == 1
    assert dead_letters.run("show", "nowhere-dlt/0/0")[0] == 2
    code, error = dead_letters.redrive()
    assert code == 1 and f"partition 9 of {dead_letters.topic}, which has 2 partitions; nothing was sent" in error
    assert dead_letters.redriven() == []


def interrupting(after: int) -> Callable[[int], None]:
    def sent(count: int) -> None:
        nonlocal after
        after -= 1
        if after == 0:
            raise KeyboardInterrupt

    return sent


def test_after_an_interrupt_between_batches_the_next_redrive_sends_the_rest(dead_letters: DeadLetterTopic) -> None:
    dead_letters.set_aside(*map(simple, range(7)))
    with closing(DeadLetterReader(dead_letters.settings)) as reader, closing(RedriveProducer(dead_letters.settings)) as sender:
        redrives = plan_redrive(reader.scan([f"{dead_letters.topic}-dlt"]), reader.redrive_records(), again=False).redrives
        with pytest.raises(KeyboardInterrupt):
            redrive_all(reader, sender, redrives, interrupting(2), max_records=2)
    assert dead_letters.redriven() == [simple(number) for number in range(4)]
    assert dead_letters.redrive()[1]["redriven"] == 3
    assert dead_letters.redriven() == [simple(number) for number in range(7)]


def test_records_of_an_interrupted_transaction_are_not_read(dead_letters: DeadLetterTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_letters.set_aside(*map(simple, range(3)))
    with closing(DeadLetterReader(dead_letters.settings)) as reader:
        redrives = plan_redrive(reader.scan([f"{dead_letters.topic}-dlt"]), reader.redrive_records(), again=False).redrives
        died = RedriveProducer(dead_letters.settings)
        commit = died.producer.commit_transaction
        monkeypatch.setattr(died.producer, "commit_transaction", lambda: None)  # everything but the commit has happened
        redrive_all(reader, died, redrives, lambda count: None)
        assert dead_letters.redrive()[1]["redriven"] == 3
        with pytest.raises(CannotContinue, match="another"), redrive_errors(dead_letters.settings):
            commit()
        died.close()
    assert dead_letters.redriven() == [simple(number) for number in range(3)]


def test_more_dead_letters_than_one_transaction_holds_are_redriven(dead_letters: DeadLetterTopic) -> None:
    count = BATCH_RECORDS + 20
    to = producer(dead_letters.settings, "test")
    for number in range(count):
        written = dead_letter(ConsumedRecord(dead_letters.topic, number % 2, number, number, b"k", b"%d" % number, ()), "g", ValueError())
        to.send(written.topic, key=written.key, value=written.value, headers=written.headers)
    to.close()
    assert dead_letters.redrive()[1]["redriven"] == count
    values = [int(value or b"-1") for _, _, _, value, _ in dead_letters.redriven()]
    assert sorted(values) == list(range(count))


def test_dead_letters_with_distant_offsets_are_found(dead_letters: DeadLetterTopic) -> None:
    dead_letters.set_aside(*[simple(number) for number in range(230)])
    with closing(DeadLetterReader(dead_letters.settings)) as reader:
        ids = {RecordId(f"{dead_letters.topic}-dlt", 0, offset) for offset in (0, 1, 220, 229, 4000)}
        assert sorted(id.offset for id in reader.fetch(ids)) == [0, 1, 220, 229]
