"""Collection: which records a training run reads, by offset ranges that always give the same snapshot and digest.

A range is [start, end) of one partition; `end` is the last stable offset when the run starts, so open transactions are left out.
Records are read once, de-duplicated by their derived ids and sorted by them, so neither the order of reading nor repeats matter; what
a run then uses of them is `selection`'s to say. `erasures` is read like the others: who asked to be forgotten neither trains nor judges.
Malformed records have their own dead-letter path and are only counted here.

Memory while collecting: some hundred bytes a record. Texts go to a spool on disk, messages are dropped as soon as they are looked at.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from infra.errors import CannotContinue
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings, TrainerSettings
from schemas.eligibility import Ineligible
from schemas.envelope import read
from schemas.erasures import ErasureRequest
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.topics import ERASURES, OUTCOMES, TRAJECTORIES, Topic
from schemas.trajectories import Trajectory
from trainer.data.query_cases import SftExample, case_of, sft_example_key, sft_example_of
from trainer.data.record_selection import TOPIC, RecordSummary, RowKind, select
from trainer.data.snapshot import Ranges, Snapshot, SnapshotRow, canonical, ranges_json, snapshots_dir
from trainer.data.text_spool import TextSpool
from trainer.interruption import check

#: What a run reads.
READ = (OUTCOMES, TRAJECTORIES, ERASURES)
#: A reader that hears nothing for this long while records are still due gives up.
SILENCE_S = 60.0


def collect(settings: Settings, stop: threading.Event, untouched_share: float = 1.0, before: Ranges | None = None) -> Snapshot:
    """Read everything that is committed now and select from it. Blocks until the ends of the ranges are reached.

    `untouched_share` of users never trained the parent; `before` are the ranges the parent was trained on, older data that is replayed only in part.
    """
    with TopicReader(settings, "retouch-trainer", max_poll_records=2000, fetch_max_bytes=16_000_000) as topics:
        ranges = offset_ranges(topics, READ)
        return assemble(ranges, records(topics, ranges, stop), settings.trainer, untouched_share, before, snapshots_dir(settings))


def check_erasures(settings: Settings, snapshot: Snapshot, stop: threading.Event) -> None:
    """For whoever takes up a stored snapshot or registers what it trained.

    Raises CannotContinue where one of its users asked to be forgotten since it was collected.
    """
    with TopicReader(settings, "retouch-trainer") as topics:
        before = snapshot.ranges.get(ERASURES.name, {})
        now = offset_ranges(topics, (ERASURES,))[ERASURES.name]
        since = {number: (max(start, before.get(number, (0, start))[1]), end) for number, (start, end) in now.items()}
        gathered = Gathered({}, snapshots_dir(settings))
        for record in records(topics, {ERASURES.name: since}, stop):
            gathered.take(record)
    if gathered.erased.keys() & (snapshot.users() if gathered.erased else set()):
        raise CannotContinue("a user of this run's data asked to be forgotten since it was collected; the next run collects anew")


def offset_ranges(reader: TopicReader, topics: Iterable[Topic]) -> Ranges:
    """The first and the last stable offset of every partition. A topic that does not exist yet has no partitions."""
    return {topic.name: {place.partition: span for place, span in reader.ranges(topic.name).items()} for topic in topics}


def records(reader: TopicReader, ranges: Ranges, stop: threading.Event) -> Iterator[Any]:
    """Every record inside the ranges, in any order between partitions. Raises RetryLater if the broker sends nothing for a minute."""
    from kafka import TopicPartition

    flat = {TopicPartition(topic, number): span for topic, parts in ranges.items() for number, span in parts.items()}
    return reader.read(flat, silence_s=SILENCE_S, check=lambda: check(stop))


def assemble(
    ranges: Ranges, found: Iterable[Any], trainer: TrainerSettings, untouched_share: float = 1.0, before: Ranges | None = None, directory: Path | None = None
) -> Snapshot:
    """De-duplicate, sort and select what was read: the same records in any order give the same snapshot. `directory` is for the spool."""
    gathered = Gathered(before or {}, directory)
    for record in found:
        gathered.take(record)
    salt = hashlib.blake2b(json.dumps(ranges_json(before or {})).encode(), digest_size=16).digest()
    selected = select(gathered.entries.values(), gathered.erased, trainer, untouched_share, salt)
    rows = [
        SnapshotRow(entry.kind, str(UUID(bytes=entry.row_id)), held_out, entry.span)
        for part, held_out in ((selected.training, False), (selected.heldout, True), (selected.lessons, False))
        for entry in part
    ]
    # By kind and id, wherever a row belongs.
    rows.sort(key=lambda row: (row.kind, row.row_id))
    return Snapshot(ranges, gathered.spool, rows, dict(sorted({**gathered.counts, **selected.counts}.items())), selected.judged_share)


class Gathered:
    """What was read so far: an entry for each record, its text in the spool, and who asked to be forgotten when."""

    def __init__(self, before: Ranges, directory: Path | None) -> None:
        self.entries: dict[tuple[RowKind, bytes], RecordSummary] = {}
        self.erased: dict[str, float] = {}
        self.counts: Counter[str] = Counter(dict.fromkeys(TOPIC.values(), 0))
        self.spool = TextSpool(directory)
        self._before = before

    def take(self, record: Any) -> None:
        self.counts[f"{record.topic}.read"] += 1
        if record.topic == ERASURES.name:
            self._forget(record)
            return
        expected: type[Outcome | Trajectory] = Outcome if record.topic == OUTCOMES.name else Trajectory
        try:
            message, _ = read(expected, record.headers, record.value)
        except Malformed:
            self.counts[f"{record.topic}.malformed"] += 1
        else:
            start, end = self._before.get(record.topic, {}).get(record.partition, (0, 0))
            self._keep(message, is_old=start <= record.offset < end)

    def _keep(self, message: Outcome | Trajectory, is_old: bool) -> None:
        """Of records with the same id the first in text order stays: a repeat may differ in a measured millisecond. One that is old makes it old."""
        text, kind = canonical(message), RowKind.OUTCOME if isinstance(message, Outcome) else RowKind.TRAJECTORY
        row_id = (message.outcome_id if isinstance(message, Outcome) else message.trajectory_id).bytes
        known = self.entries.get((kind, row_id))
        if known is None:
            self.counts[TOPIC[kind]] += 1
        else:
            is_old = is_old or known.is_old
            if self.spool.get(known.span) <= text:
                self.entries[kind, row_id] = known._replace(is_old=is_old)
                return
        self.entries[kind, row_id] = self._entry(message, kind, row_id, text, is_old)

    def _entry(self, message: Outcome | Trajectory, kind: RowKind, row_id: bytes, text: bytes, is_old: bool) -> RecordSummary:
        outcome = message if isinstance(message, Outcome) else message.outcome
        made = case_of(message) if isinstance(message, Outcome) else sft_example_of(message)
        context = outcome.response.context
        query = context.draft.query
        return RecordSummary(
            kind,
            row_id,
            user=sys.intern(outcome.key.decode()),
            domain=sys.intern(query.domain),
            asked_at=query.asked_at.timestamp(),
            earliest=min(query.asked_at, outcome.occurred_at, *(item.occurred_at for item in context.items)).timestamp(),
            lesson=sft_example_key(made) if isinstance(made, SftExample) else None,
            has_history=bool(context.items),
            is_old=is_old,
            unusable=made if isinstance(made, Ineligible) else None,
            span=self.spool.put(text),
        )

    def _forget(self, record: Any) -> None:
        """Note a request. One that cannot be read still names its user by its key: rather too much is left out than what had to be forgotten."""
        if record.value is None:
            return
        try:
            request, _ = read(ErasureRequest, record.headers, record.value)
            user, at = request.key.decode(), request.requested_at.timestamp()
        except Malformed:
            self.counts[f"{ERASURES.name}.malformed"] += 1
            user, at = (record.key or b"").decode(errors="replace"), record.timestamp / 1000
        self.erased[user] = max(at, self.erased.get(user, at))
