"""Collection: reads a run's records by offset ranges and builds a snapshot. The same ranges always give the same snapshot and digest.

A range is [start, end) of one partition. `end` is the last stable offset when the run starts, so open transactions are left out.
Records are de-duplicated by their ids within tenant and user and sorted by them, so neither the order of reading the partitions nor repeats matter. The
first record of an id in the topic is used, as in every other reader. Later ones with other content are conflicts, counted as `conflicting_id`.
`trainer.data.record_selection` chooses which records are used. `erasures` is read in the same way: users who requested erasure neither train nor judge.
Malformed records have their own dead-letter path and are only counted here.
A summary of a record takes some 700 bytes. Messages are dropped as soon as they are summarized; their texts are in the spool.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from infra.errors import CannotContinue
from infra.kafka.topic_reader import TopicReader
from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from infra.settings.training import TrainerSettings
from schemas.contexts import with_response
from schemas.eligibility import Ineligible
from schemas.envelope import read_message
from schemas.erasures import ErasureRequest
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.topics import ERASURES, OUTCOMES, TRAJECTORIES, Topic
from schemas.trajectories import Trajectory
from trainer.data.query_cases import SftExample, case_of, sft_example_key, sft_example_of
from trainer.data.record_selection import TOPIC, Position, RecordSummary, RowKind, select_records
from trainer.data.snapshot import Ranges, Snapshot, SnapshotRow, canonical, ranges_json
from trainer.data.text_spool import TextSpool
from trainer.data.trace_sample import TraceSample
from trainer.folders import snapshots_dir
from trainer.interruption import check_stop

#: The topics that a run reads.
TOPICS = (OUTCOMES, TRAJECTORIES, ERASURES)
#: Reading fails if no record arrives for this long before the ranges end.
SILENCE_S = 60.0
#: A version's tag: users below this share trained neither it nor an ancestor.
HOLDOUT_SHARE = "holdout_share"


def collect(settings: Settings, stop: threading.Event, versions: Iterable[RegisteredVersion | None] = (), parent: RegisteredVersion | None = None) -> Snapshot:
    """Read everything that is committed now and select from it. Blocks until the ends of the ranges are reached.

    Users judge if they trained none of `versions` nor an ancestor. Only a part of the data that the run of `parent` read is used again.
    """
    parent_ranges = parent.dataset.ranges if parent and parent.dataset else None
    untouched = min(map(untouched_share, versions), default=1.0)
    with TopicReader(settings, "retouch-trainer", max_poll_records=2000, fetch_max_bytes=16_000_000) as reader:
        ranges = offset_ranges(reader, TOPICS)
        return assemble(ranges, read_ranges(reader, ranges, stop), settings.trainer, untouched, parent_ranges, snapshots_dir(settings))


def check_erasures(settings: Settings, snapshot: Snapshot, stop: threading.Event) -> None:
    """Call before a stored snapshot is trained on, and before its version is registered.

    Raises CannotContinue if one of its users requested erasure since it was collected.
    """
    with TopicReader(settings, "retouch-trainer") as reader:
        before = snapshot.ranges.get(ERASURES.name, {})
        now = offset_ranges(reader, (ERASURES,))[ERASURES.name]
        since = {number: (max(start, before.get(number, (0, start))[1]), end) for number, (start, end) in now.items()}
        collected = CollectedRecords({}, snapshots_dir(settings))
        for record in read_ranges(reader, {ERASURES.name: since}, stop):
            collected.add(record)
    if collected.erased and collected.erased.keys() & snapshot.users():
        raise CannotContinue("a user of this run's data requested erasure since it was collected; the next run collects again")


def read_ranges(reader: TopicReader, ranges: Ranges, stop: threading.Event) -> Iterator[Any]:
    """Every record inside the ranges, in any order between partitions. Raises RetryLater if the broker sends nothing for a minute."""
    from kafka import TopicPartition

    flat = {TopicPartition(topic, number): offsets for topic, parts in ranges.items() for number, offsets in parts.items()}
    return reader.read(flat, silence_s=SILENCE_S, check=lambda: check_stop(stop))


def assemble(
    ranges: Ranges,
    records: Iterable[Any],
    trainer: TrainerSettings,
    untouched_share: float = 1.0,
    parent_ranges: Ranges | None = None,
    directory: Path | None = None,
) -> Snapshot:
    """De-duplicate, sort and select the records: in any order of their partitions they give the same snapshot. `directory` is for the spool."""
    collected = CollectedRecords(parent_ranges or {}, directory)
    for record in records:
        collected.add(record)
    salt = hashlib.blake2b(json.dumps(ranges_json(parent_ranges or {})).encode(), digest_size=16).digest()
    selected = select_records(collected.summaries.values(), collected.erased, trainer, untouched_share, salt)
    rows = [
        SnapshotRow(summary.kind, str(UUID(bytes=summary.row_id)), held_out, summary.span)
        for part, held_out in ((selected.training, False), (selected.heldout, True), (selected.sft_examples, False))
        for summary in part
    ]
    rows.sort(key=lambda row: (row.kind, row.row_id))
    counts = dict(sorted({**collected.counts, **selected.counts}.items()))
    traces = collected.traces.of(UUID(row.row_id).bytes for row in rows)
    return Snapshot(ranges, collected.spool, rows, counts, selected.judged_share, traces=traces)


def offset_ranges(reader: TopicReader, topics: Iterable[Topic]) -> Ranges:
    """The first and the last stable offset of every partition. A topic that does not exist yet has no partitions."""
    return {topic.name: {partition.partition: offsets for partition, offsets in reader.ranges(topic.name).items()} for topic in topics}


def offsets_beyond(ranges: Ranges, before: Ranges, topic: Topic) -> int:
    """The number of offsets of a topic that `ranges` contains and the earlier ranges do not."""
    seen = before.get(topic.name, {})
    return sum(max(0, end - max(start, seen.get(number, (0, start))[1])) for number, (start, end) in ranges.get(topic.name, {}).items())


def untouched_share(version: RegisteredVersion | None) -> float:
    """The share of users, from 0, that trained neither `version` nor an ancestor, whatever `trainer.holdout_share` was then (docs/rules.md, 6).

    It is 1 for the shipped checkpoint and for no version. It is 0 for a trained version whose tag is missing or not a number: it may have trained on any
    user.
    """
    if version is None or version.parent is None:
        return 1.0
    try:
        return float(version.tags[HOLDOUT_SHARE])
    except (KeyError, ValueError):
        return 0.0


class CollectedIdentity(NamedTuple):
    """A message's identity in little space."""

    kind: RowKind
    user: str  # tenant/user
    row_id: bytes


class CollectedRecords:
    """De-duplicates records by their identity. `parent_ranges` were read by the parent's run: records in them are old."""

    def __init__(self, parent_ranges: Ranges, directory: Path | None) -> None:
        self.summaries: dict[CollectedIdentity, RecordSummary] = {}
        self.erased: dict[str, float] = {}  # user -> time of the latest erasure request
        self.counts: Counter[str] = Counter(dict.fromkeys(TOPIC.values(), 0))
        self.spool = TextSpool(directory)
        self.traces = TraceSample()
        self._parent_ranges = parent_ranges

    def add(self, record: Any) -> None:
        self.counts[f"{record.topic}.read"] += 1
        if record.topic == ERASURES.name:
            self._add_erasure(record)
            return
        expected: type[Outcome | Trajectory] = Outcome if record.topic == OUTCOMES.name else Trajectory
        try:
            message, envelope = read_message(expected, record.headers, record.value)
        except Malformed:
            self.counts[f"{record.topic}.malformed"] += 1
        else:
            self.traces.add(message.identity.id.bytes, envelope.traceparent)
            start, end = self._parent_ranges.get(record.topic, {}).get(record.partition, (0, 0))
            self._add_message(message, (record.partition, record.offset), is_old=start <= record.offset < end)

    def _add_message(self, message: Outcome | Trajectory, position: Position, is_old: bool) -> None:
        """Keep the first of the records with one identity. If one of them is old, all are. A key is in one partition, so its records come in order."""
        kind = RowKind.OUTCOME if isinstance(message, Outcome) else RowKind.TRAJECTORY
        key = CollectedIdentity(kind, sys.intern(message.key.decode()), message.identity.id.bytes)
        earlier = self.summaries.get(key)
        if earlier is None:
            self.counts[TOPIC[kind]] += 1
            self.summaries[key] = self._summary(message, key, position, is_old)
            return
        if message.content_digest() != earlier.content:
            self.counts[f"{TOPIC[kind]}.conflicting_id"] += 1
        is_old = is_old or earlier.is_old
        self.summaries[key] = earlier._replace(is_old=is_old) if earlier.position <= position else self._summary(message, key, position, is_old)

    def _summary(self, message: Outcome | Trajectory, key: CollectedIdentity, position: Position, is_old: bool) -> RecordSummary:
        outcome = message if isinstance(message, Outcome) else message.outcome
        usable = case_of(message) if isinstance(message, Outcome) else sft_example_of(message)
        context = outcome.response.context
        query = context.draft.query
        return RecordSummary(
            key.kind,
            key.row_id,
            key.user,
            domain=sys.intern(query.domain),
            asked_at=query.asked_at.timestamp(),
            earliest=min(query.asked_at, outcome.occurred_at, *(item.occurred_at for item in context.items)).timestamp(),
            example_key=sft_example_key(usable) if isinstance(usable, SftExample) else None,
            has_history=bool(with_response(context.items)),
            is_old=is_old,
            ineligible=usable if isinstance(usable, Ineligible) else None,
            span=self.spool.put(canonical(message)),
            position=position,
            content=message.content_digest(),
        )

    def _add_erasure(self, record: Any) -> None:
        """Store an erasure request. The user of a malformed one is read from its key: better to leave out too much than too little."""
        if record.value is None:
            return
        try:
            request, _ = read_message(ErasureRequest, record.headers, record.value)
            user, at = request.key.decode(), request.requested_at.timestamp()
        except Malformed:
            self.counts[f"{ERASURES.name}.malformed"] += 1
            user, at = (record.key or b"").decode(errors="replace"), record.timestamp / 1000
        self.erased[user] = max(at, self.erased.get(user, at))
