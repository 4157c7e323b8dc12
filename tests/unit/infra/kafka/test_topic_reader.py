"""The topic reader on a consumer in memory. tests/integration/test_topic_reader.py reads a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from infra.errors import CannotContinue, RetryLater
from infra.kafka import topic_reader
from infra.kafka.errors import broker_errors
from infra.kafka.topic_reader import TopicReader
from infra.settings import load
from tests.support.memory_consumer import MemoryConsumer

FIRST, SECOND = TopicPartition("drafts", 0), TopicPartition("drafts", 1)
SETTINGS = load(kafka={"bootstrap_servers": "127.0.0.1:9"})


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> MemoryConsumer:
    consumer = MemoryConsumer()
    for partition in (0, 1):
        for number in range(4):
            consumer.add("drafts", partition, b"%d" % number, timestamp=1000 * number)
    monkeypatch.setattr(topic_reader, "groupless_consumer", lambda *args, **options: consumer)
    return consumer


@pytest.fixture
def reader(consumer: MemoryConsumer) -> TopicReader:
    return TopicReader(SETTINGS, "test")


def test_ranges_hold_the_whole_topic_and_a_missing_topic_has_none(reader: TopicReader) -> None:
    assert reader.ranges("drafts", "nothing") == {FIRST: (0, 4), SECOND: (0, 4)}
    assert reader.ranges("nothing") == {}


def test_ranges_since_a_time_begin_at_its_first_record(consumer: MemoryConsumer, reader: TopicReader) -> None:
    consumer.add("drafts", 1, timestamp=9000)
    assert reader.ranges("drafts", since_ms=2000) == {FIRST: (2, 4), SECOND: (2, 5)}
    assert reader.ranges("drafts", since_ms=5000) == {FIRST: (4, 4), SECOND: (4, 5)}


def test_read_returns_the_records_inside_the_ranges(reader: TopicReader) -> None:
    records = list(reader.read({FIRST: (1, 3), SECOND: (3, 3)}))
    assert [(record.partition, record.offset) for record in records] == [(0, 1), (0, 2)]


def test_a_marker_at_the_end_of_a_range_ends_the_reading(consumer: MemoryConsumer, reader: TopicReader) -> None:
    consumer.add_marker("drafts", 0)
    assert len(list(reader.read({FIRST: (0, 5)}, silence_s=0.0))) == 4


def test_a_reader_reads_several_times_what_it_has_read(reader: TopicReader) -> None:
    assert [len(list(reader.read(reader.ranges("drafts")))) for _ in range(2)] == [8, 8]
    reader.follow("drafts")
    assert len(list(reader.read_to_end(timeout_s=1.0))) == 8


def test_a_broker_without_records_for_some_time_is_retried_later(consumer: MemoryConsumer, reader: TopicReader) -> None:
    ranges = {FIRST: (0, 9), SECOND: (3, 5)}
    with pytest.raises(RetryLater, match=r"no records for 0 s although 2 partitions hold more; is the broker up\?"):
        list(reader.read(ranges, silence_s=0.0))


def test_a_read_that_takes_too_long_is_retried_later(reader: TopicReader) -> None:
    with pytest.raises(RetryLater, match="drafts could not be read to the end within 0 s"):
        list(reader.read({FIRST: (0, 9)}, timeout_s=0.0))


def test_the_check_of_a_read_may_interrupt_it(reader: TopicReader) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(reader.read(reader.ranges("drafts"), check=interrupt))


def test_following_from_the_end_returns_new_records_only(consumer: MemoryConsumer, reader: TopicReader) -> None:
    assert reader.follow("drafts", from_end=True) == [FIRST, SECOND]
    consumer.add("drafts", 1, b"new")
    assert [record.value for record in reader.poll(0.1)] == [b"new"]


def test_following_again_reads_on_until_partitions_are_added(consumer: MemoryConsumer, reader: TopicReader) -> None:
    def read() -> int:
        reader.follow("drafts")
        return len(list(reader.read_to_end(timeout_s=1.0)))

    assert [read(), read()] == [8, 0]
    consumer.add("drafts", 2)
    assert read() == 9
    reader.restart()
    assert read() == 9


def test_following_goes_on_at_positions(reader: TopicReader) -> None:
    reader.follow("drafts", positions={FIRST: 3})
    assert [(record.partition, record.offset) for record in reader.read_to_end(timeout_s=1.0)] == [(0, 3), *((1, number) for number in range(4))]


@pytest.mark.parametrize("call", [lambda reader: reader.poll(0.1), lambda reader: list(reader.read({FIRST: (0, 1)}))], ids=("poll", "read"))
def test_a_client_error_names_the_address_and_what_to_check(consumer: MemoryConsumer, reader: TopicReader, call: Callable[[TopicReader], object]) -> None:
    consumer.failure = KafkaTimeoutError()
    with pytest.raises(RetryLater, match=r"the broker at 127.0.0.1:9 did not execute the request \(KafkaTimeoutError\): is it up, and is the address right\?"):
        call(reader)


def test_the_caller_chooses_the_error_and_the_action() -> None:
    with pytest.raises(CannotContinue, match="did not take 3 records"), broker_errors(SETTINGS, CannotContinue, "take 3 records"):
        raise KafkaTimeoutError


def test_a_reader_is_closed_with_its_block(consumer: MemoryConsumer) -> None:
    with TopicReader(SETTINGS, "test"):
        pass
    assert consumer.closed == 1
