"""Dead-letter topics on the broker: read up to where they end now, sent back in transactions, with the marks of what was.

Marks lie on a compacted topic, one per letter and for ever. A consumer group's offsets would not do: a broker forgets those of an idle group after
seven days, and letters stay. The transactional id is one for everybody: a second redrive fences the first, reads its marks and goes on behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, ProducerFencedError, TopicAlreadyExistsError

from infra.errors import CannotContinue
from infra.kafka.clients import admin, groupless_consumer, producer
from infra.kafka.dead_letters import Letter, Mark, Marks, Place, read_letter
from infra.kafka.topology import DEAD_LETTER_ROOM, REDRIVEN
from infra.settings import Settings
from schemas.topics import DEAD_LETTER_SUFFIX, MAX_MESSAGE_BYTES

TRANSACTIONAL_ID = "retouch-dlq"
#: After a killed redrive, readers of its topics wait this long for the broker to give the open transaction up.
TRANSACTION_TIMEOUT_MS = 15_000
TIMEOUT_MS = 15_000
SILENCE_S = 15.0
#: One transaction's records, marks and end.
COMMIT_WITHIN_S = 30.0
#: Letters further apart than this are looked up one by one, nearer ones are read through.
NEAR = 100


@contextmanager
def answering(settings: Settings) -> Iterator[None]:
    """Raises CannotContinue for whatever the Kafka client raises inside."""
    try:
        yield
    except ProducerFencedError as error:
        raise CannotContinue("another `retouch dlq redrive` has taken over; what this one sent is marked, repeat the command when the other is done") from error
    except KafkaError as error:
        address = settings.bootstrap_servers()
        raise CannotContinue(f"the broker at {address} did not do what was asked ({type(error).__name__}): is it up, and is the address right?") from error


class DeadLetterTopics:
    """A reader of all of them: committed records only, in no group. Raises KafkaError (see `answering`) and CannotContinue. Close it."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = groupless_consumer(settings, "retouch-dlq", bootstrap_timeout_ms=TIMEOUT_MS, request_timeout_ms=TIMEOUT_MS)
        self._topics: frozenset[str] = frozenset(self._consumer.topics())

    def close(self) -> None:
        self._consumer.close()

    def names(self) -> list[str]:
        return sorted(name for name in self._topics if name.endswith(DEAD_LETTER_SUFFIX))

    def partitions(self, topic: str) -> int:
        """How many; 0 where there is no such topic."""
        return len(self._places(topic))

    def marks(self) -> Marks:
        self._topics = frozenset(self._consumer.topics())
        found: dict[str, Mark] = {}
        for record in self._read(self._ranges([REDRIVEN])):
            mark = Mark.from_bytes(record.value) if record.key and record.value else None
            if mark:
                found[record.key.decode(errors="replace")] = mark
        return found

    def scan(self, topics: Iterable[str], since_ms: int | None = None) -> Iterator[Letter]:
        """Every letter up to the topics' present ends, in order within a partition; those before `since_ms` may be left out."""
        ranges = self._ranges(topics)
        if since_ms is not None and ranges:
            starts = self._consumer.offsets_for_times(dict.fromkeys(ranges, max(0, since_ms)))
            ranges = {place: (found.offset if (found := starts.get(place)) else end, end) for place, (_, end) in ranges.items()}
        yield from map(_letter, self._read(ranges))

    def fetch(self, places: Iterable[Place]) -> dict[Place, Letter]:
        """These letters. Those that do not exist are missing from the answer."""
        wanted = set(places)
        bounds = self._ranges({place.topic for place in wanted})
        found: dict[Place, Letter] = {}
        for partition, offsets in _by_partition(wanted).items():
            first, end = bounds.get(partition, (0, 0))
            for start, stop in _runs([offset for offset in offsets if first <= offset < end]):
                letters = (_letter(record) for record in self._read({partition: (start, stop)}))
                found |= {letter.place: letter for letter in letters if letter.place in wanted}
        return found

    def _places(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in sorted(self._consumer.partitions_for_topic(topic))] if topic in self._topics else []

    def _ranges(self, topics: Iterable[str]) -> dict[TopicPartition, tuple[int, int]]:
        """First and last stable offset of each partition."""
        places = [place for topic in topics for place in self._places(topic)]
        if not places:
            return {}
        firsts, ends = self._consumer.beginning_offsets(places), self._consumer.end_offsets(places)
        return {place: (firsts[place], ends[place]) for place in places}

    def _read(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[Any]:
        due = {place: end for place, (start, end) in ranges.items() if start < end}
        if not due:
            return
        self._consumer.assign(list(due))
        self._consumer.resume(*due)  # paused by an earlier reading
        for place in due:
            self._consumer.seek(place, ranges[place][0])
        heard = time.monotonic()
        while due:
            polled = self._consumer.poll(timeout_ms=200)
            for place, batch in polled.items():
                yield from (record for record in batch if record.offset < ranges[place][1])
            # A transaction's marker has an offset but is no record, so the end is known by the position alone.
            finished = [place for place, end in due.items() if self._consumer.position(place) >= end]
            for place in finished:
                del due[place]
                self._consumer.pause(place)
            if polled or finished:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                raise CannotContinue(f"no records for {SILENCE_S:.0f} s although {len(due)} partitions hold more; is the broker up?")


class TransactionalOutbox:
    """Sends letters back. Making one ends whatever another redrive left open, so read the marks after it. Raises KafkaError and CannotContinue."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        _make_marks_topic(settings)
        self.producer = producer(
            settings,
            "retouch-dlq",
            transactional_id=TRANSACTIONAL_ID,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_block_ms=TIMEOUT_MS,
            bootstrap_timeout_ms=TIMEOUT_MS,
            # The broker took the original; the client's own estimate of a record's size is larger than what the broker counts.
            max_request_size=MAX_MESSAGE_BYTES + DEAD_LETTER_ROOM,
        )
        try:
            self.producer.init_transactions()
        except BaseException:
            self.close()
            raise

    def send(self, parcels: Sequence[tuple[Letter, Sequence[Letter]]]) -> None:
        """One transaction. The client's calls cannot be bounded nor taken back, so they have a thread of their own; an interrupt gets through at once."""
        failed: list[BaseException] = []

        def transaction() -> None:
            try:
                self._transact(parcels)
            except BaseException as error:  # told to the caller's thread
                failed.append(error)

        thread = threading.Thread(target=transaction, daemon=True)
        thread.start()
        thread.join(COMMIT_WITHIN_S)
        if thread.is_alive():
            raise CannotContinue(f"the broker did not end a transaction within {COMMIT_WITHIN_S:g} s; repeat the command: the marks say what was sent")
        if failed:
            with suppress(KafkaError):
                self._settle()
            raise failed[0]

    def close(self) -> None:
        self.producer.close(timeout=2.0)

    def _transact(self, parcels: Sequence[tuple[Letter, Sequence[Letter]]]) -> None:
        self.producer.begin_transaction()
        sent = [self._send_back(letter) for letter, _ in parcels]
        self.producer.flush(timeout=COMMIT_WITHIN_S)
        now_ms = int(time.time() * 1000)
        marks = []
        for (letter, repeats), future in zip(parcels, sent, strict=True):
            taken = future.get(timeout=0)
            place = Place(taken.topic, taken.partition, taken.offset)
            for marked in (letter, *repeats):
                mark = Mark(marked.set_aside_ms, now_ms, place)
                marks.append(self.producer.send(REDRIVEN, key=str(marked.place).encode(), value=mark.to_bytes()))
        self.producer.flush(timeout=COMMIT_WITHIN_S)
        for future in marks:
            future.get(timeout=0)
        self.producer.commit_transaction()

    def _send_back(self, letter: Letter) -> Any:
        origin = letter.origin
        assert origin is not None  # the plan leaves foreign letters out
        stamp = origin.timestamp_ms if origin.timestamp_ms >= 0 else None
        headers = list(letter.original_headers)
        return self.producer.send(origin.topic, key=letter.key, value=letter.value, headers=headers, partition=origin.partition, timestamp_ms=stamp)

    def _settle(self) -> None:
        """Give the transaction up, so that readers of its topics need not wait for its timeout; in a thread, for the client may block."""
        thread = threading.Thread(target=lambda: _quietly(self.producer.abort_transaction), daemon=True)
        thread.start()
        thread.join(5.0)


def _quietly(call: Any) -> None:
    with suppress(Exception):  # the next redrive's initialization, or the timeout, ends the transaction all the same
        call()


def _make_marks_topic(settings: Settings) -> None:
    client = admin(settings, bootstrap_timeout_ms=TIMEOUT_MS)
    try:
        if REDRIVEN in client.list_topics():
            return
        config = {"cleanup.policy": "compact"}
        new = {REDRIVEN: {"num_partitions": 1, "replication_factor": settings.kafka.replication_factor, "configs": config}}
        for result in client.create_topics(new, raise_errors=False)["topics"]:
            if result["error_code"] not in (0, TopicAlreadyExistsError.errno):
                raise CannotContinue(f"the broker refuses topic {REDRIVEN}, which the marks need: {result['error_message']}")
        client.wait_for_topics([REDRIVEN], timeout_ms=TIMEOUT_MS)
    finally:
        client.close()


def _letter(record: Any) -> Letter:
    return read_letter(Place(record.topic, record.partition, record.offset), record.timestamp, record.key, record.value, record.headers)


def _by_partition(places: Iterable[Place]) -> dict[TopicPartition, list[int]]:
    found: dict[TopicPartition, list[int]] = {}
    for place in sorted(places):
        found.setdefault(TopicPartition(place.topic, place.partition), []).append(place.offset)
    return found


def _runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges that hold all of these ascending offsets; `stop` is exclusive."""
    start = 0
    for number in range(1, len(offsets) + 1):
        if number == len(offsets) or offsets[number] - offsets[number - 1] > NEAR:
            yield offsets[start], offsets[number - 1] + 1
            start = number
