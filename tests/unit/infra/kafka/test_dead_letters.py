"""Parsing of dead letters, filters, the plan of a redrive, and its redrive records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from kafka.record.default_records import DefaultRecordBatchBuilder

from infra.kafka.dead_letters import (
    ADDED_HEADERS,
    DeadLetterFilter,
    Headers,
    RecordId,
    RecordOrigin,
    RedriveRecord,
    StoredDeadLetter,
    WithRepeats,
    batches,
    last_redrive,
    parse_dead_letter,
    plan_redrive,
    redrive_all,
)
from infra.kafka.declared_topics import DEAD_LETTER_HEADER_BYTES
from schemas.dead_letters import RECORD_LIMIT, dead_letter
from schemas.records import ConsumedRecord
from schemas.topics import MAX_MESSAGE_BYTES

ORIGIN = RecordOrigin("queries", 3, 41, 1_795_000_000_123, "retouch-base")


def letter(
    offset: int = 0, *, origin: RecordOrigin = ORIGIN, key: bytes | None = b"k", value: bytes | None = b"v", headers: Headers = (), at_ms: int = 1000
) -> StoredDeadLetter:
    record = ConsumedRecord(origin.topic, origin.partition, origin.offset, origin.timestamp_ms, key, value, headers)
    written = dead_letter(record, origin.group, ValueError("bad shape"))
    return parse_dead_letter(RecordId(written.topic, 0, offset), at_ms, written.key, written.value, written.headers)


def at(partition: int, offset: int) -> RecordOrigin:
    return RecordOrigin("queries", partition, offset, 5, "g")


def test_a_dead_letter_is_parsed_into_origin_and_reason() -> None:
    read = letter(headers=(("ce_id", b"1"),))
    assert (read.origin, read.exception, read.message, read.problem) == (ORIGIN, "builtins.ValueError", "bad shape", None)
    assert read.original_headers == (("ce_id", b"1"),)


def test_the_added_headers_are_those_of_the_schema() -> None:
    assert len(ADDED_HEADERS) == 7 and all(name.startswith("kafka_dlt-") for name in ADDED_HEADERS)


def test_only_the_last_added_headers_are_removed() -> None:
    before = tuple(dead_letter(ConsumedRecord("queries", 1, 2, 5, None, None, ()), "g", KeyError("before")).headers)
    for original in (before, (("a", b"1"), *before, ("a", b"2")), before[3:], before * 2):
        read = letter(headers=original)
        assert (read.original_headers, read.origin) == (original, ORIGIN)


@pytest.mark.parametrize(
    ("key", "value", "headers", "left_out"),
    [
        (b"k", b"x" * (RECORD_LIMIT - 1), (), ""),
        (b"k", b"x" * 3_000_000, (("ce_id", b"1"),), "value of 3000000 bytes"),
        (b"k", b"v", (("a", b"x" * 3_000_000),), "headers of 3000011 bytes"),
        (b"x" * 3_000_000, None, (), "key of 3000000 bytes"),
        (b"k" * 900_000, b"v" * 900_000, (("a", b"x" * 900_000),), "headers of 900011 bytes, key of 900000 bytes"),
    ],
    ids=["fits", "value", "headers", "key", "all"],
)
def test_the_dead_letter_of_a_record_that_only_fits_compressed_fits_its_topic(key: bytes, value: bytes | None, headers: Headers, left_out: str) -> None:
    written = dead_letter(ConsumedRecord("queries", 3, 41, 5, key, value, headers), "g", ValueError("é" * 5000))
    assert DefaultRecordBatchBuilder.estimate_size_in_bytes(written.key, written.value, written.headers) < MAX_MESSAGE_BYTES + DEAD_LETTER_HEADER_BYTES
    read = parse_dead_letter(RecordId("queries-dlt", 0, 0), 1, written.key, written.value, written.headers)
    assert read.problem == (f"it has no room for the record's {left_out}; the record itself is at queries/3/41" if left_out else None)
    assert bool(plan_redrive([read], {}, again=False).redrives) is not bool(left_out)


def with_added_headers(**changed: bytes | None) -> Headers:
    headers = dead_letter(ConsumedRecord("queries", 3, 41, 1_795_000_000_123, b"k", b"v", ()), "retouch-base", ValueError("x")).headers
    return tuple((name, changed.get(name.removeprefix("kafka_dlt-").replace("-", "_"), content)) for name, content in headers)


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ((), "last headers"),
        ((("kafka_dlt-original-topic", b"queries"),), "last headers"),
        (with_added_headers()[1:], "last headers"),
        ((*with_added_headers(), ("later", b"1")), "last headers"),
        (with_added_headers(original_offset=b"41"), "length"),
        (with_added_headers(original_topic=b"\xff"), "UTF-8"),
        (with_added_headers(original_topic=b"drafts"), "original topic"),
        (with_added_headers(original_partition=b"\xff" * 4), "negative"),
        ((("null", None), *with_added_headers()), "null"),
        (with_added_headers(exception_message=None), "null"),
    ],
)
def test_a_record_that_cannot_be_redriven_has_a_problem(headers: Headers, problem: str) -> None:
    read = parse_dead_letter(RecordId("queries-dlt", 0, 0), 1, b"k", b"v", headers)
    assert problem in str(read.problem)
    assert plan_redrive([read], {}, again=True).redrives == ()


def test_a_record_without_key_and_value_cannot_be_redriven() -> None:
    assert "neither key nor value" in str(parse_dead_letter(RecordId("queries-dlt", 0, 0), 1, None, None, with_added_headers()).problem)


def test_possible_differences_are_noted() -> None:
    assert letter().notes == ()
    lossy = letter(key=None, value=None, headers=(("a", None),), origin=RecordOrigin("queries", 0, 0, -1, "g"))
    assert [note.split(" may")[0] for note in lossy.notes[:2]] == ["an empty header", "the empty value"] and "present time" in lossy.notes[2]
    assert "bytes that are not UTF-8" in letter(headers=(("caf\\xe9", b"v"),)).notes[0]


@pytest.mark.parametrize("text", ["", "queries-dlt", "queries-dlt/0", "queries-dlt/0/x", "queries-dlt/-1/0", "/0/0", "q/0/0/0", "q/0/²", "q/0/" + "9" * 30])
def test_a_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TOPIC-dlt/PARTITION/OFFSET"):
        RecordId.parse(text)
    assert RecordId.parse("queries-dlt/1/22") == RecordId("queries-dlt", 1, 22)


@pytest.mark.parametrize(
    ("criteria", "matches"),
    [
        (DeadLetterFilter(), True),
        (DeadLetterFilter(reason="BAD"), True),
        (DeadLetterFilter(reason="valueerror"), True),
        (DeadLetterFilter(reason="other"), False),
        (DeadLetterFilter(since_ms=1000, until_ms=1001), True),
        (DeadLetterFilter(since_ms=1001), False),
        (DeadLetterFilter(until_ms=1000), False),
    ],
)
def test_filters_select_by_reason_and_time(criteria: DeadLetterFilter, matches: bool) -> None:
    assert criteria.matches(letter()) is matches


def test_records_are_planned_once_and_in_their_original_order() -> None:
    letters = [letter(0, origin=at(1, 7)), letter(1, origin=at(1, 5)), letter(2, origin=at(0, 9)), letter(3, origin=at(1, 5))]
    planned = plan_redrive(letters, {}, again=False)
    assert [(r.id.offset, [id.offset for id in r.repeats]) for r in planned.redrives] == [(2, []), (1, [3]), (0, [])]
    assert [r.id.offset for r in plan_redrive(letters, {}, again=False, limit=1).redrives] == [2]


def test_a_redrive_record_counts_only_for_its_own_dead_letter() -> None:
    records = {"queries-dlt/0/0": RedriveRecord(1000, 2000, RecordId("queries", 3, 9))}
    assert plan_redrive([letter()], records, again=False).already_redriven == 1
    assert len(plan_redrive([letter()], records, again=True).redrives) == 1
    assert last_redrive(letter(at_ms=7000), records) is None  # another dead letter: the topic was created anew


NO_REDRIVES = [b"", b"\xff", b"[]", b"1", b"{}", b'{"set_aside_ms": 1, "redriven_ms": 2, "sent_as": "x"}', b'{"set_aside_ms": null}']


@pytest.mark.parametrize("data", [*NO_REDRIVES, b'{"set_aside_ms": Infinity}', b"[" * 100_000], ids=range(len(NO_REDRIVES) + 2))
def test_bytes_that_are_no_redrive_record_give_none(data: bytes) -> None:
    assert RedriveRecord.from_bytes(data) is None
    assert RedriveRecord.from_bytes(RedriveRecord(1, 2, RecordId("q", 0, 0)).to_bytes()) == RedriveRecord(1, 2, RecordId("q", 0, 0))


def test_batches_are_bounded_by_number_and_size_and_never_empty() -> None:
    redrives = plan_redrive([letter(n, origin=at(0, n), value=b"x" * 1000) for n in range(5)], {}, again=False).redrives
    assert [len(batch) for batch in batches(redrives, max_records=2)] == [2, 2, 1]
    assert [len(batch) for batch in batches(redrives, max_bytes=2600)] == [2, 2, 1]
    assert [len(batch) for batch in batches(redrives, max_bytes=1)] == [1] * 5
    assert list(batches([])) == []


class MemorySender:
    """Source and sender in memory. A call of `send` sends the whole batch or nothing."""

    def __init__(self, letters: Iterable[StoredDeadLetter], fails_at: int) -> None:
        self.letters = {letter.id: letter for letter in letters}
        self.sent: list[int] = []
        self.recorded: list[int] = []
        self._fails_at = fails_at

    def fetch(self, ids: Iterable[RecordId]) -> dict[RecordId, StoredDeadLetter]:
        return {id: self.letters[id] for id in ids}

    def send(self, batch: Sequence[WithRepeats]) -> None:
        if len(self.sent) >= self._fails_at:
            raise KeyboardInterrupt
        for first, repeats in batch:
            self.sent.append(first.id.offset)
            self.recorded += [same.id.offset for same in (first, *repeats)]


def test_batches_before_an_interrupt_stay_sent() -> None:
    letters = [letter(n, origin=at(0, n // 2)) for n in range(10)]  # each record twice
    sender = MemorySender(letters, fails_at=4)
    sizes: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        redrive_all(sender, sender, plan_redrive(letters, {}, again=False).redrives, sizes.append, max_records=2)
    assert (sender.sent, sender.recorded, sizes) == ([0, 2, 4, 6], list(range(8)), [2, 2])
