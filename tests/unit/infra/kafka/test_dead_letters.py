"""Which letters may be sent back, as what, in which order, and how it is known that they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from infra.kafka.dead_letters import TAIL, Filter, Headers, Letter, Mark, Place, chunks, deliver, mark_of, plan, read_letter
from schemas.dead_letters import Origin, dead_letter

ORIGIN = Origin("queries", 3, 41, 1_795_000_000_123, "retouch-base")


def letter(
    offset: int = 0, *, origin: Origin = ORIGIN, key: bytes | None = b"k", value: bytes | None = b"v", headers: Headers = (), at_ms: int = 1000
) -> Letter:
    written = dead_letter(origin, key, value, headers, ValueError("bad shape"))
    return read_letter(Place(written.topic, 0, offset), at_ms, written.key, written.value, written.headers)


def at(partition: int, offset: int) -> Origin:
    return Origin("queries", partition, offset, 5, "g")


def test_a_letter_says_where_it_came_from_and_why() -> None:
    read = letter(headers=(("ce_id", b"1"),))
    assert (read.origin, read.exception, read.message, read.problem) == (ORIGIN, "builtins.ValueError", "bad shape", None)
    assert read.original_headers == (("ce_id", b"1"),)


def test_the_names_are_the_writers() -> None:
    assert len(TAIL) == 7 and all(name.startswith("kafka_dlt-") for name in TAIL)


def test_only_the_headers_of_the_last_writing_are_taken_off() -> None:
    before = tuple(dead_letter(at(1, 2), None, None, [], KeyError("before")).headers)
    for original in (before, (("a", b"1"), *before, ("a", b"2")), before[3:], before * 2):
        read = letter(headers=original)
        assert (read.original_headers, read.origin) == (original, ORIGIN)


def with_tail(**changed: bytes | None) -> Headers:
    headers = dead_letter(ORIGIN, b"k", b"v", [], ValueError("x")).headers
    return tuple((name, changed.get(name.removeprefix("kafka_dlt-").replace("-", "_"), content)) for name, content in headers)


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ((), "last headers"),
        ((("kafka_dlt-original-topic", b"queries"),), "last headers"),
        (with_tail()[1:], "last headers"),
        ((*with_tail(), ("later", b"1")), "last headers"),
        (with_tail(original_offset=b"41"), "length"),
        (with_tail(original_topic=b"\xff"), "UTF-8"),
        (with_tail(original_topic=b"drafts"), "original topic"),
        (with_tail(original_partition=b"\xff" * 4), "negative"),
        ((("null", None), *with_tail()), "null"),
        (with_tail(exception_message=None), "null"),
    ],
)
def test_what_cannot_be_sent_back_says_why(headers: Headers, problem: str) -> None:
    read = read_letter(Place("queries-dlt", 0, 0), 1, b"k", b"v", headers)
    assert problem in str(read.problem)
    assert plan([read], {}, again=True).errands == ()


def test_a_record_of_nothing_cannot_be_sent() -> None:
    assert "neither key nor value" in str(read_letter(Place("queries-dlt", 0, 0), 1, None, None, with_tail()).problem)


def test_what_may_be_lost_is_noted() -> None:
    assert letter().notes == ()
    lossy = letter(key=None, value=None, headers=(("a", None),), origin=Origin("queries", 0, 0, -1, "g"))
    assert [note.split(" may")[0] for note in lossy.notes[:2]] == ["an empty header", "the empty value"] and "present time" in lossy.notes[2]


@pytest.mark.parametrize("text", ["", "queries-dlt", "queries-dlt/0", "queries-dlt/0/x", "queries-dlt/-1/0", "/0/0", "q/0/0/0", "q/0/²", "q/0/" + "9" * 30])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="TOPIC-dlt/PARTITION/OFFSET"):
        Place.parse(text)
    assert Place.parse("queries-dlt/1/22") == Place("queries-dlt", 1, 22)


@pytest.mark.parametrize(
    ("chosen", "takes"),
    [
        (Filter(), True),
        (Filter(reason="BAD"), True),
        (Filter(reason="valueerror"), True),
        (Filter(reason="other"), False),
        (Filter(since_ms=1000, until_ms=1001), True),
        (Filter(since_ms=1001), False),
        (Filter(until_ms=1000), False),
    ],
)
def test_filters(chosen: Filter, takes: bool) -> None:
    assert chosen.takes(letter()) is takes


def test_records_go_in_their_original_order_and_each_once() -> None:
    found = [letter(0, origin=at(1, 7)), letter(1, origin=at(1, 5)), letter(2, origin=at(0, 9)), letter(3, origin=at(1, 5))]
    planned = plan(found, {}, again=False)
    assert [(e.place.offset, [place.offset for place in e.repeats]) for e in planned.errands] == [(2, []), (1, [3]), (0, [])]
    assert [e.place.offset for e in plan(found, {}, again=False, limit=1).errands] == [2]


def test_a_mark_holds_for_the_letter_it_was_made_for() -> None:
    marks = {"queries-dlt/0/0": Mark(1000, 2000, Place("queries", 3, 9))}
    assert plan([letter()], marks, again=False).already == 1
    assert len(plan([letter()], marks, again=True).errands) == 1
    assert mark_of(letter(at_ms=7000), marks) is None  # another letter: the topic was made anew


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"1", b"{}", b'{"set_aside_ms": 1, "redriven_ms": 2, "sent_as": "x"}', b'{"set_aside_ms": null}'])
def test_what_is_no_mark_is_none(data: bytes) -> None:
    assert Mark.from_bytes(data) is None
    assert Mark.from_bytes(Mark(1, 2, Place("q", 0, 0)).to_bytes()) == Mark(1, 2, Place("q", 0, 0))


def test_chunks_are_bounded_by_number_and_size_and_never_empty() -> None:
    errands = plan([letter(n, origin=at(0, n), value=b"x" * 1000) for n in range(5)], {}, again=False).errands
    assert [len(chunk) for chunk in chunks(errands, letters=2)] == [2, 2, 1]
    assert [len(chunk) for chunk in chunks(errands, size_bytes=2600)] == [2, 2, 1]
    assert [len(chunk) for chunk in chunks(errands, size_bytes=1)] == [1] * 5
    assert list(chunks([])) == []


class Shelf:
    """Letters by place, and what was sent: whole calls or none."""

    def __init__(self, letters: Iterable[Letter], fails_at: int) -> None:
        self.letters = {letter.place: letter for letter in letters}
        self.sent: list[int] = []
        self.marked: list[int] = []
        self._fails_at = fails_at

    def fetch(self, places: Iterable[Place]) -> dict[Place, Letter]:
        return {place: self.letters[place] for place in places}

    def send(self, parcels: Sequence[tuple[Letter, Sequence[Letter]]]) -> None:
        if len(self.sent) >= self._fails_at:
            raise KeyboardInterrupt
        for first, repeats in parcels:
            self.sent.append(first.place.offset)
            self.marked += [marked.place.offset for marked in (first, *repeats)]


def test_what_was_sent_before_an_interrupt_stays_sent() -> None:
    found = [letter(n, origin=at(0, n // 2)) for n in range(10)]  # each record twice
    shelf = Shelf(found, fails_at=4)
    heard: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        deliver(shelf, shelf, plan(found, {}, again=False).errands, heard.append, size=2)
    assert (shelf.sent, shelf.marked, heard) == ([0, 2, 4, 6], list(range(8)), [2, 2])
