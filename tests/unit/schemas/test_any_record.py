"""Whatever bytes a record has: it is read or refused, and what is read, refused and set aside adds up to what was given."""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import asyncapi
from schemas.dead_letters import is_id_conflict, original_position
from schemas.drafts import Draft
from schemas.envelope import Headers, envelope_headers, read_message
from schemas.interactions import Interaction
from schemas.messages import Malformed, Message, message_type
from schemas.queries import Query
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.responses import Response
from schemas.topics import DRAFTS, FEEDBACK, INTERACTIONS, JOIN_STATE_CHANGELOG, LOOKUPS, QUERIES, RESPONSES, TOPICS, Topic
from streams.app.join_state import JoinState
from streams.app.processor import Processor
from streams.history.processor import HistoryProcessor
from streams.index.tenant_filter import content_of
from streams.outcomes.processor import OutcomesProcessor
from streams.retrieval.processor import LookupProcessor, RetrievalProcessor
from tests.support.streams_fakes import MemoryIndex, WordEmbedder, search
from workers.runtime.broker import ResumePoint
from workers.runtime.handler import HandlerSpec, Incoming, Outgoing
from workers.runtime.in_flight import Finished, HandlingOutcome, InFlight
from workers.runtime.partition_state import AssignedPartitions
from workers.runtime.processor import RecordProcessor

#: Together 10,000 records.
BATCH, BATCHES = 25, 100
ANY = settings(max_examples=BATCHES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

SAMPLES: dict[type[Message], Any] = {message_type(path.stem): json.loads(path.read_text()) for path in sorted(asyncapi.SAMPLES.glob("retouch.*.v1.json"))}
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    1.5,
    2**70,
    -(10**400),
    float("nan"),
    float("inf"),
    "",
    " ",
    "\ud800",
    "a\x00b",
    "\u202e",
    "x" * 40_000,
    "6F7D1A524D0E5B0F9F0E2F1F4C1B7A11",
    "10000-01-01T00:00:00Z",
    "9999-12-31T23:59:60-23:59",
    "0001-01-01t00:00:00+00:01",
    "2016-12-31 23:59:60z",
    "2026-01-01",
    [],
    {},
    [[]] * 300,
    {"": {"": 1}},
]
BOMBS = [
    b"",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b"9" * 5_000,
    b'"\\ud800"',
    b'"\xed\xa0\x80"',
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"NaN",
    b'{"query_id": 1, "query_id": 2}',
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for name, child in children for leaf in leaves(child, (*path, name)))]


PATHS = {kind: leaves(sample)[1:] for kind, sample in SAMPLES.items()}


def with_value(value: Any, path: Sequence[Any], new: Any) -> Any:
    """A copy in which `new` is at `path`; without that entry if `new` is `...`."""
    if not path:
        return new
    name, *rest = path
    is_there = name in value if isinstance(value, dict) else isinstance(value, list) and isinstance(name, int) and name < len(value)
    if not is_there:
        return value  # an earlier change replaced it
    copy = value.copy()
    if new is ... and not rest:
        del copy[name]
    else:
        copy[name] = with_value(value[name], rest, new)
    return copy


def some_value(rng: random.Random, kind: type[Message]) -> bytes | None:
    how = rng.randrange(10)
    if how == 0:
        return rng.choice([None, rng.randbytes(rng.randrange(40)), rng.choice(BOMBS)])
    message = SAMPLES[kind]
    for _ in range(rng.choice([0, 1, 1, 2])):
        message = with_value(message, rng.choice(PATHS[kind]), rng.choice([..., *HOSTILE]))
    text = json.dumps(message, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
    if how == 1:
        text = text.replace("{", '{"of_a_later_version": ' + "[" * 150 + "]" * 150 + ",", 1)
    if how == 2:
        text = text.replace(",", ', "text": "said twice",', 1)
    value = text.encode(errors="surrogatepass")
    if how == 3:
        cut = rng.randrange(len(value))
        value = value[:cut] + rng.randbytes(rng.randrange(3)) + value[cut + rng.randrange(3) :]
    return value


NAMES = ["ce_id", "ce_type", "ce_time", "ce_source", "traceparent", "", "x", "\u0130", "kafka_dlt-original-topic"]
CONTENTS = [None, b"", b"1", b"\xff", b"retouch.query.v2", b"2016-12-31t23:59:60.123456789z", b"10000-01-01T00:00:00Z"]


def some_headers(rng: random.Random, kind: type[Message]) -> list[tuple[str, bytes | None]]:
    headers: list[tuple[str, bytes | None]] = [*good_headers(kind)]
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        at, name, content = rng.randint(0, len(headers)), rng.choice(NAMES), rng.choice(CONTENTS)
        match rng.randrange(5):
            case 0:
                headers.insert(at, (name, content))
            case 1:
                headers.insert(at, (name.upper(), content))
            case 2:
                del headers[at:]
            case 3:
                headers = [(each.upper(), value) for each, value in headers]
            case _:
                headers += good_headers(rng.choice([*SAMPLES]))
    return headers


@functools.cache
def good_headers(kind: type[Message]) -> Headers:
    return envelope_headers(kind.from_bytes(json.dumps(SAMPLES[kind]).encode()), id=1, source="/foreign")


def batches_of(*topics: Topic) -> st.SearchStrategy[list[ConsumedRecord]]:
    """Records of these topics, some with messages of another one. One number makes a batch: hypothesis' own strategies take five times as long."""

    def batch(seed: int) -> list[ConsumedRecord]:
        rng = random.Random(seed)
        return [record(rng, offset) for offset in range(BATCH)]

    def record(rng: random.Random, offset: int) -> ConsumedRecord:
        topic = rng.choice(topics)
        kind = topic.message if rng.random() < 0.9 else rng.choice([*SAMPLES])
        return ConsumedRecord(topic.name, 0, offset, 0, rng.choice([None, b"", b"t/u", b"\xff"]), some_value(rng, kind), some_headers(rng, kind))

    return st.integers(0, 2**32).map(batch)


def readable(records: Sequence[ConsumedRecord], kind: Callable[[ConsumedRecord], type[Message]]) -> dict[int, Message]:
    """The messages by offset. Fails for anything but a message or Malformed."""
    read: dict[int, Message] = {}
    reasons = []
    for record in records:
        try:
            read[record.offset] = record.read(kind(record))[0]
        except Malformed as error:
            reasons.append(str(error))
    assert all(map(str.isprintable, reasons))
    return read


@ANY
@given(batches_of(*TOPICS))
def test_a_record_is_a_message_or_malformed(records: list[ConsumedRecord]) -> None:
    by_name = {topic.name: topic.message for topic in TOPICS}
    for offset, message in readable(records, lambda record: by_name[record.topic]).items():
        again = type(message).from_bytes(message.to_bytes())
        assert again == message
        assert again.fingerprint() == message.fingerprint()
        assert read_message(type(message), records[offset].headers, message.to_bytes())[0] == message


@ANY
@given(batches_of(QUERIES))
def test_a_worker_answers_sets_aside_or_drops_as_a_repeat_each_record(records: list[ConsumedRecord]) -> None:
    messages = readable(records, lambda record: Query)

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        return [Outgoing(DRAFTS, Draft(query=incoming.message, answer="a", base_model="m", base_ms=1), 1)]

    async def all_handled() -> Counter[HandlingOutcome]:
        processor, partitions = RecordProcessor(HandlerSpec("base", QUERIES, handle)), AssignedPartitions(remember=1_000)
        partitions.assign(0, ResumePoint(None))
        for in_flight in map(InFlight, records):
            processor.parse(in_flight)
            if partitions.admit(in_flight):
                result = await processor.attempt(in_flight)
                assert isinstance(result, Finished) and not result.our_fault
                in_flight.finished = result
                partitions.finish(in_flight)
        partitions.read_to({0: len(records)})
        batch = partitions.batch(len(records))
        written = {original_position(output.headers): output for output in batch.outputs if output.topic == "queries-dlt"}
        for record in records:
            if (letter := written.get((QUERIES.name, 0, record.offset))) is not None:
                assert (letter.key, letter.value or None) == (record.key, record.value or None)
        partitions.committed(batch)
        assert len(written) == partitions.outcomes[HandlingOutcome.SET_ASIDE] + partitions.outcomes[HandlingOutcome.CONFLICT]
        assert sum(output.topic == DRAFTS.name for output in batch.outputs) == partitions.outcomes[HandlingOutcome.PRODUCED]
        return partitions.outcomes

    outcomes = asyncio.run(all_handled())
    contents = Counter((message.identity, message.to_bytes()) for message in messages.values())
    assert outcomes.total() == len(records)
    assert outcomes[HandlingOutcome.SET_ASIDE] == len(records) - len(messages)
    assert outcomes[HandlingOutcome.PRODUCED] == len({identity for identity, _ in contents})
    assert outcomes[HandlingOutcome.CONFLICT] + outcomes[HandlingOutcome.REPEAT] + outcomes[HandlingOutcome.PRODUCED] == len(messages)


@ANY
@given(batches_of(INTERACTIONS))
def test_history_indexes_sets_aside_or_drops_as_a_repeat_each_record(records: list[ConsumedRecord]) -> None:
    messages = readable(records, lambda record: Interaction)
    index = MemoryIndex()
    letters = handled(HistoryProcessor(WordEmbedder(), index, batch=BATCH), records)
    conflicts = {offset for offset, letter in letters.items() if is_id_conflict(letter.headers)}
    assert letters.keys() - conflicts == {record.offset for record in records} - messages.keys()
    assert len(index.points) == len({message.identity for message in messages.values()})
    kept = {point.interaction.identity: content_of(point.interaction) for point in index.points.values()}
    for offset, message in messages.items():
        assert isinstance(message, Interaction)
        assert (offset in conflicts) == (kept[message.identity] != content_of(message))


@ANY
@given(batches_of(DRAFTS, LOOKUPS, RESPONSES, FEEDBACK))
def test_the_other_processors_set_aside_what_cannot_be_read_and_nothing_else_fails(records: list[ConsumedRecord]) -> None:
    by_name = {topic.name: topic.message for topic in (DRAFTS, LOOKUPS, RESPONSES, FEEDBACK)}
    messages = readable(records, lambda record: by_name[record.topic])
    shared = search(WordEmbedder(), MemoryIndex())
    retrieval, lookups = RetrievalProcessor(shared, 6), LookupProcessor(shared)
    join = OutcomesProcessor(JoinState({}), join_window_s=3_600, assigned=lambda: {0})
    drafts = [record for record in records if record.topic == DRAFTS.name]
    asked = [record for record in records if record.topic == LOOKUPS.name]
    others = [record for record in records if record.topic not in (DRAFTS.name, LOOKUPS.name)]
    letters = {**handled(retrieval, drafts), **handled(lookups, asked), **handled(join, others)}
    unread = {offset for offset, letter in letters.items() if b"Malformed" in dict(letter.headers)["kafka_dlt-exception-fqcn"]}
    assert unread == {record.offset for record in records} - messages.keys()


def handled(processor: Processor, records: Sequence[ConsumedRecord]) -> dict[int, ProducedRecord]:
    """The dead letters by the offset of their record."""
    produced = asyncio.run(processor.handle(records)) if records else []
    letters = [record for record in produced if record.topic.endswith("-dlt")]
    positions = [original_position(letter.headers) for letter in letters]
    assert len({*positions}) == len(letters), "each record at most once"
    assert all(record.topic != JOIN_STATE_CHANGELOG or record.key for record in produced)
    return {position[2]: letter for position, letter in zip(positions, letters, strict=True) if position}


def test_the_samples_are_read_as_they_are() -> None:
    for kind in {topic.message for topic in TOPICS}:
        assert kind.from_bytes(json.dumps(SAMPLES[kind]).encode()).ce_type() == kind.ce_type()
    assert Response in SAMPLES
