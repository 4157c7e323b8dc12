"""Dead-letter topics on the broker: reads them to their present ends, sends dead letters back in transactions, and keeps the redrive records.

Redrive records stay on a compacted topic for ever, one for each dead letter. Offsets of a consumer group are no alternative: a broker deletes those of
an idle group after seven days. All redrives share one transactional id: a second one fences the first, reads its redrive records, and continues.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, ProducerFencedError

from infra.errors import CannotContinue
from infra.kafka.clients import producer
from infra.kafka.dead_letters import RecordId, RedriveRecord, RedriveRecords, StoredDeadLetter, WithRepeats, parse_dead_letter
from infra.kafka.declared_topics import DEAD_LETTER_HEADER_BYTES, is_of_another_deployment
from infra.kafka.errors import broker_errors, missing_topics
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import Use
from infra.kafka.rights import Operation
from infra.kafka.sources_file import source_dead_letter_topics, source_topics
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.topics import DEAD_LETTER_SUFFIX, DEAD_LETTERED, MAX_MESSAGE_BYTES, REDRIVE_TRANSACTIONS, REDRIVEN, dead_letter_topic

#: After a killed redrive, readers of its topics wait this long until the broker aborts the open transaction.
TRANSACTION_TIMEOUT_MS = 15_000
TIMEOUT_S = 15.0
TIMEOUT_MS = 15_000
#: Bound for one transaction: its records, its redrive records and its commit.
COMMIT_TIMEOUT_S = 30.0
#: Dead letters with a larger distance between their offsets are read one by one; between nearer ones everything is read.
MAX_GAP = 100


@contextmanager
def redrive_errors(settings: Settings) -> Iterator[None]:
    """Raises CannotContinue for every error of the Kafka client."""
    use = Use(Operation.WRITE, transactional_id=KafkaNames(settings.kafka).group(REDRIVE_TRANSACTIONS))
    with broker_errors(settings, CannotContinue, "redrive dead letters", use):
        try:
            yield
        except ProducerFencedError as error:
            raise CannotContinue(
                "another `retouch dlq redrive` has taken over; repeat this command when the other one ends: records that were sent are skipped"
            ) from error


class DeadLetterReader:
    """Reads all dead-letter topics. Raises RetryLater if the broker does not answer. Close it."""

    def __init__(self, settings: Settings) -> None:
        self._reader = TopicReader(settings, "retouch-dlq", timeout_s=TIMEOUT_S, request_timeout_ms=TIMEOUT_MS)
        try:
            self._topics = self._reader.topics()
            self._source_topics = source_topics(settings)
            for topic in (*(dead_letter_topic(topic.name) for topic in DEAD_LETTERED), *source_dead_letter_topics(settings)):
                self._reader.partitions(topic)  # raises if the user may not see it; a missing topic has no dead letters
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._reader.close()

    def names(self) -> list[str]:
        """The dead-letter topics, without those of deployments with another `kafka.topic_prefix`."""
        of_sources = {dead_letter_topic(topic) for topic in self._source_topics}
        dead_letters = (name for name in self._topics if name.endswith(DEAD_LETTER_SUFFIX))
        return sorted(name for name in dead_letters if name in of_sources or not is_of_another_deployment(name))

    def declared(self, *, with_sources: bool) -> list[str]:
        """Those that exist of the declared dead-letter topics, and of those of `sources.toml`, whose records come from the platform's topics."""
        names = (*(topic.name for topic in DEAD_LETTERED), *(self._source_topics if with_sources else ()))
        return [name for topic in names if (name := dead_letter_topic(topic)) in self._topics]

    def partitions(self, topic: str) -> int:
        """Number of partitions; 0 if the topic does not exist."""
        return len(self._reader.partitions(topic)) if topic in self._topics else 0

    def redrive_records(self) -> RedriveRecords:
        self._topics = self._reader.topics()
        records: dict[str, RedriveRecord] = {}
        for stored in self._reader.read(self._reader.ranges(REDRIVEN)):
            record = RedriveRecord.from_bytes(stored.value) if stored.key and stored.value else None
            if record:
                records[stored.key.decode(errors="replace")] = record
        return records

    def scan(self, topics: Iterable[str], since_ms: int | None = None) -> Iterator[StoredDeadLetter]:
        """Every dead letter up to the topics' present ends, in order within a partition. Those before `since_ms` may be left out."""
        yield from map(_parse, self._reader.read(self._reader.ranges(*topics, since_ms=since_ms or 0)))

    def fetch(self, ids: Iterable[RecordId]) -> dict[RecordId, StoredDeadLetter]:
        """These dead letters, without those that do not exist."""
        requested = set(ids)
        bounds = self._reader.ranges(*{id.topic for id in requested})
        dead_letters: dict[RecordId, StoredDeadLetter] = {}
        for partition, offsets in _by_partition(requested).items():
            first, end = bounds.get(partition, (0, 0))
            for span in _spans([offset for offset in offsets if first <= offset < end]):
                parsed = map(_parse, self._reader.read({partition: span}))
                dead_letters |= {dead_letter.id: dead_letter for dead_letter in parsed if dead_letter.id in requested}
        return dead_letters


class RedriveProducer:
    """Sends dead letters back. Creating one aborts a transaction that another redrive left open, so read the redrive records after it.

    Raises KafkaError (see `redrive_errors`) and CannotContinue.
    """

    def __init__(self, settings: Settings) -> None:
        with TopicReader(settings, "retouch-dlq", timeout_s=TIMEOUT_S) as reader:
            if not reader.partitions(REDRIVEN):
                raise missing_topics(settings, [REDRIVEN])
        self.producer = producer(
            settings,
            "retouch-dlq",
            transactional_id=REDRIVE_TRANSACTIONS,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_block_ms=TIMEOUT_MS,
            # The broker took the original; the client estimates a record's size larger than the broker counts it.
            max_request_size=MAX_MESSAGE_BYTES + DEAD_LETTER_HEADER_BYTES,
        )
        try:
            self.producer.init_transactions()
        except BaseException:
            self.close()
            raise

    def send(self, batch: Sequence[WithRepeats]) -> None:
        """Send one transaction. It runs in its own thread, because the client's calls have no bound: an interrupt of the caller takes effect at once."""
        failures: list[BaseException] = []

        def transaction() -> None:
            try:
                self._transact(batch)
            except BaseException as error:  # raised in the caller's thread
                failures.append(error)

        thread = threading.Thread(target=transaction, daemon=True)
        thread.start()
        thread.join(COMMIT_TIMEOUT_S)
        if thread.is_alive():
            raise CannotContinue(f"the broker did not end a transaction within {COMMIT_TIMEOUT_S:g} s; repeat the command: records that were sent are skipped")
        if failures:
            with suppress(KafkaError):
                self._abort()
            raise failures[0]

    def close(self) -> None:
        self.producer.close(timeout=2.0)

    def _transact(self, batch: Sequence[WithRepeats]) -> None:
        self.producer.begin_transaction()
        sent = [self._send_back(dead_letter) for dead_letter, _ in batch]
        self.producer.flush(timeout=COMMIT_TIMEOUT_S)
        now_ms = int(time.time() * 1000)
        recorded = []
        for (dead_letter, repeats), future in zip(batch, sent, strict=True):
            metadata = future.get(timeout=0)
            assert dead_letter.origin is not None  # the plan leaves foreign dead letters out
            sent_as = RecordId(dead_letter.origin.topic, metadata.partition, metadata.offset)
            for same in (dead_letter, *repeats):
                record = RedriveRecord(same.set_aside_ms, now_ms, sent_as)
                recorded.append(self.producer.send(REDRIVEN, key=str(same.id).encode(), value=record.to_bytes()))
        self.producer.flush(timeout=COMMIT_TIMEOUT_S)
        for future in recorded:
            future.get(timeout=0)
        self.producer.commit_transaction()

    def _send_back(self, dead_letter: StoredDeadLetter) -> Any:
        origin = dead_letter.origin
        assert origin is not None  # the plan leaves foreign dead letters out
        timestamp_ms = origin.timestamp_ms if origin.timestamp_ms >= 0 else None
        headers = list(dead_letter.original_headers)
        return self.producer.send(
            origin.topic, key=dead_letter.key, value=dead_letter.value, headers=headers, partition=origin.partition, timestamp_ms=timestamp_ms
        )

    def _abort(self) -> None:
        """Abort the transaction, so that readers of its topics need not wait for its timeout. In a thread, because the client may block."""
        thread = threading.Thread(target=lambda: _ignoring_errors(self.producer.abort_transaction), daemon=True)
        thread.start()
        thread.join(5.0)


def _ignoring_errors(call: Any) -> None:
    with suppress(Exception):  # the next redrive, or the timeout, aborts the transaction too
        call()


def _parse(record: Any) -> StoredDeadLetter:
    return parse_dead_letter(RecordId(record.topic, record.partition, record.offset), record.timestamp, record.key, record.value, record.headers)


def _by_partition(ids: Iterable[RecordId]) -> dict[TopicPartition, list[int]]:
    offsets: dict[TopicPartition, list[int]] = {}
    for id in sorted(ids):
        offsets.setdefault(TopicPartition(id.topic, id.partition), []).append(id.offset)
    return offsets


def _spans(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Half-open ranges that cover all of these ascending offsets."""
    start = 0
    for number in range(1, len(offsets) + 1):
        if number == len(offsets) or offsets[number] - offsets[number - 1] > MAX_GAP:
            yield offsets[start], offsets[number - 1] + 1
            start = number
