"""Collection: reads a run's records by offset ranges and builds a snapshot. The same ranges always give the same snapshot and digest.

A range is [start, end) of one partition. `end` is the last stable offset when the run starts, so open transactions are left out.
Records are de-duplicated by their derived ids and sorted by them, so neither the order of reading nor repeats matter. `trainer.data.record_selection`
chooses which of them are used. `erasures` is read in the same way: users who requested erasure neither train nor judge.
Malformed records have their own dead-letter path and are only counted here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from infra.errors import CannotContinue
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from infra.settings.training import TrainerSettings
from schemas.topics import ERASURES, OUTCOMES, TRAJECTORIES
from trainer.data.collected_records import CollectedRecords
from trainer.data.offset_ranges import Ranges, offset_ranges, ranges_json
from trainer.data.record_selection import select_records
from trainer.data.snapshot import Snapshot, SnapshotRow
from trainer.folders import snapshots_dir
from trainer.interruption import check_stop

#: The topics that a run reads.
TOPICS = (OUTCOMES, TRAJECTORIES, ERASURES)
#: Reading fails if no record arrives for this long before the ranges end.
SILENCE_S = 60.0


def collect(settings: Settings, stop: threading.Event, untouched_share: float = 1.0, parent_ranges: Ranges | None = None) -> Snapshot:
    """Read everything that is committed now and select from it. Blocks until the ends of the ranges are reached.

    `untouched_share` of users never trained the parent. Only a part of the data in `parent_ranges`, which the parent's run read, is used again.
    """
    with TopicReader(settings, "retouch-trainer", max_poll_records=2000, fetch_max_bytes=16_000_000) as reader:
        ranges = offset_ranges(reader, TOPICS)
        return assemble(ranges, read_ranges(reader, ranges, stop), settings.trainer, untouched_share, parent_ranges, snapshots_dir(settings))


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
    """De-duplicate, sort and select the records: in any order they give the same snapshot. `directory` is for the spool."""
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
    return Snapshot(ranges, collected.spool, rows, dict(sorted({**collected.counts, **selected.counts}.items())), selected.judged_share)
