"""The process of online quality: a book for each of its partitions, their changed cells to `quality`, and the low-water offsets behind them.

Cells go out before offsets, so whatever is committed has been told; whatever was told and is not committed is told again, and says the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kafka.errors import KafkaError

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.process.lifecycle import FAILED, mark_ready
from infra.settings import Settings
from infra.telemetry.metrics import QUALITY_RECORDS, QUALITY_REWARD, QualityOutcome
from schemas.envelope import read
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.quality import Moments
from schemas.topics import OUTCOMES, QUALITY, RESPONSES, SHADOWS
from streams.quality.checkpoint import Mark
from streams.quality.group import Group
from streams.quality.partition_metrics import TOPICS, Book, Place, Read

log = logging.getLogger(__name__)

POLL_S = 0.2
COMMIT_EVERY_S = 1.0
FLUSH_S = 60.0
#: A topic waits while another one of its partition has records that are older by so much: what is kept open is bounded, however far behind we are.
AHEAD_S = 600.0
SOURCE = "/streams/quality"
_MESSAGE: dict[str, type[Read]] = {topic.name: topic.message for topic in (RESPONSES, OUTCOMES, SHADOWS)}  # type: ignore[misc]  # of these three it is one


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set. Raises RetouchError when it cannot begin or go on."""
    settings.bootstrap_servers()
    with _guarded(settings.streams.stall_timeout_s) as beat:
        service = Service(settings)
        try:
            while not stop.is_set():
                beat.set()
                service.step()
            service.tell()
        finally:
            service.close()


class Service:
    """One member. Blocks on the broker, each step within a bound."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._quality = settings, settings.quality
        self._books: dict[int, Book] = {}
        self._ready = False
        self._told_at = self._committed_at = self._moved_at = time.monotonic()
        self._moved: dict[int, dict[str, int]] = {}
        self._window = 0.0
        self._group = Group(settings)
        self._producer = producer(settings, "retouch-quality")

    def step(self) -> None:
        records = self._group.poll(min(POLL_S, self._quality.every_s))
        if not self._group.is_member:
            return
        self._follow(self._group.partitions())
        for record in records:
            if record.partition in self._books:
                self._take(record)
        self._hold()
        self._watch()
        if time.monotonic() - self._told_at >= self._quality.every_s:
            self.tell()

    def tell(self) -> None:
        """Changed cells, then, now and then, the offsets behind them."""
        sent = [self._send(cell) for book in self._rebuilt() for cell in book.take_changed()]
        with broker_errors(self._settings, CannotContinue, f"take {len(sent)} cells of online quality"):
            self._producer.flush(timeout=FLUSH_S)
            for future in sent:
                future.get(timeout=FLUSH_S)
        self._told_at = time.monotonic()
        self._show_rewards()
        if self._told_at - self._committed_at >= COMMIT_EVERY_S:
            self._commit()

    @property
    def has_caught_up(self) -> bool:
        """Whether all that was on our partitions at the last look is counted."""
        return bool(self._books) and all(len(self._caught_up(number)) == len(TOPICS) for number in self._books)

    def close(self) -> None:
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=1)
        self._group.close()

    def _follow(self, partitions: set[int]) -> None:
        """A book of ours that stays is right as it is, whoever read its partition meanwhile: it skips what it has read."""
        for number in self._books.keys() - partitions:
            del self._books[number]
        for number in partitions - self._books.keys():
            with broker_errors(self._settings, CannotContinue, f"return the committed offsets of partition {number}"):
                marks = self._group.marks(number)
            self._books[number] = Book(number, self._settings.registry.model_name, self._quality, marks)
            log.info("partition assigned", extra={"partition": number, "again_to": {topic: mark.read_to for topic, mark in marks.items()}})
        if not self._ready:
            mark_ready(self._settings)
            self._ready = True

    def _take(self, record: Any) -> None:
        book = self._books[record.partition]
        if not book.is_new(record.topic, record.offset):
            return
        place = Place.of(record.topic, record.offset, record.timestamp)
        try:
            message, _ = read(_MESSAGE[record.topic], record.headers, record.value)
        except Malformed:  # whoever must act on it sets it aside, here it is counted
            book.passed(place)
            QUALITY_RECORDS.add(topic=record.topic, outcome=QualityOutcome.MALFORMED)
            return
        book.take(message, place)

    def _rebuilt(self) -> Iterator[Book]:
        for number, book in self._books.items():
            if book.is_rebuilt(self._group.positions(number)):
                yield book

    def _send(self, cell: Any) -> Any:
        return send(self._producer, QUALITY, cell, id=derive("quality", cell.key, cell.computed_at), source=SOURCE)

    def _commit(self) -> None:
        offsets: dict[tuple[str, int], tuple[int, Mark]] = {}
        for number, book in self._books.items():
            positions = self._group.positions(number)
            if not book.is_rebuilt(positions):
                continue
            book.release(self._caught_up(number))
            offsets |= {(topic, number): book.low_water(topic, position) for topic, position in positions.items()}
        if self._group.commit(offsets):
            self._committed_at = time.monotonic()

    def _caught_up(self, number: int) -> set[str]:
        positions, ends = self._group.positions(number), self._group.ends(number)
        return {topic for topic in TOPICS if topic in positions and topic in ends and positions[topic] >= ends[topic]}

    def _hold(self) -> None:
        clocks = {number: {topic: clock for topic in TOPICS if (clock := book.clock(topic)) is not None} for number, book in self._books.items()}
        self._group.hold([(topic, number) for number, times in clocks.items() for topic in far_ahead(times, self._caught_up(number))])

    def _watch(self) -> None:
        """Raises CannotContinue where records are ahead and none is read."""
        positions, now = {number: self._group.positions(number) for number in self._books}, time.monotonic()
        if positions != self._moved or self.has_caught_up:
            self._moved, self._moved_at = positions, now
        if now - self._moved_at > self._settings.streams.stall_timeout_s:
            raise CannotContinue(f"online quality reads nothing although records are ahead, for {self._settings.streams.stall_timeout_s:g} s")

    def _show_rewards(self) -> None:
        """The metric of the last whole window, once it is over."""
        window_s = self._quality.window_s
        window = (time.time() // window_s - 1) * window_s
        if window == self._window:
            return
        self._window = window
        found: dict[tuple[str, str, str], Moments] = {}
        for book in self._books.values():
            for cell, moments in book.rewards(window):
                labels = (cell.version, cell.arm.value, cell.domain or "")
                found[labels] = found.get(labels, Moments()) + moments
        QUALITY_REWARD.forget()
        for (version, arm, domain), moments in found.items():
            QUALITY_REWARD.set(moments.mean, version=version, arm=arm, domain=domain)


def far_ahead(clocks: Mapping[str, float], caught_up: Collection[str]) -> set[str]:
    """Topics of one partition that wait for another one of it, whose newest record is older by more than AHEAD_S while more are to come."""
    behind = min((clock for topic, clock in clocks.items() if topic not in caught_up), default=float("inf"))
    return {topic for topic, clock in clocks.items() if clock > behind + AHEAD_S}


@contextlib.contextmanager
def _guarded(timeout_s: float) -> Iterator[threading.Event]:
    """End the process when nobody sets the event for `timeout_s`: what hangs in a client's call cannot be asked to end. Nothing more is committed."""
    beat, ended = threading.Event(), threading.Event()

    def guard() -> None:
        while not ended.is_set():
            beat.clear()
            if not beat.wait(timeout_s) and not ended.is_set():
                log.error("online quality hangs", extra={"timeout_s": timeout_s})
                os._exit(FAILED)
            ended.wait(timeout_s / 4)

    threading.Thread(target=guard, name="quality-guard", daemon=True).start()
    try:
        yield beat
    finally:
        ended.set()
        beat.set()
