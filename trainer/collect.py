"""Snapshots: exactly which records a training run sees, by offset ranges, with a digest that the same ranges always give.

A range is [start, end) of one partition; `end` is the last stable offset when the run starts, so open transactions are left out.
Records are read once, de-duplicated by their derived ids and sorted by them, so neither the order of reading nor repeats matter.
Held-out users train nothing: of them only outcomes are kept, to judge by, and only where no ancestor trained on the user while
`trainer.holdout_share` was smaller. What cannot be used is counted by reason; malformed records
have their own dead-letter path and are only counted here.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from infra.errors import CannotContinue
from infra.kafka import reader
from infra.settings import Settings
from schemas.envelope import Headers, read
from schemas.ids import is_held_out
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.topics import OUTCOMES, TRAJECTORIES, Topic
from schemas.trajectories import Trajectory
from trainer.cases import Case, Lesson, Unusable, case_of, lesson_of
from trainer.interruption import check
from trainer.snapshot import Ranges, Row, Snapshot, code_version, digest_of, load, offsets_beyond, ranges_json, write

__all__ = ["Ranges", "Row", "Snapshot", "code_version", "digest_of", "load", "offsets_beyond", "ranges_json", "write"]

log = logging.getLogger(__name__)

#: A reader that hears nothing for this long while records are still due gives up.
SILENCE_S = 60.0


def collect(settings: Settings, stop: threading.Event, untouched_share: float = 1.0) -> Snapshot:
    """Read everything that is committed now; `untouched_share` of users never trained the parent. Blocks until the ends of the ranges are reached."""
    consumer = reader(settings, "retouch-trainer", max_poll_records=2000, fetch_max_bytes=16_000_000)
    try:
        ranges = offset_ranges(consumer, (OUTCOMES, TRAJECTORIES))
        return assemble(ranges, records(consumer, ranges, stop), settings.trainer.holdout_share, untouched_share)
    finally:
        consumer.close()


def offset_ranges(consumer: Any, topics: Iterable[Topic]) -> Ranges:
    """The first and the last stable offset of every partition. A topic that does not exist yet has no partitions."""
    from kafka import TopicPartition

    ranges: dict[str, dict[int, tuple[int, int]]] = {}
    for topic in topics:
        partitions = [TopicPartition(topic.name, number) for number in sorted(consumer.partitions_for_topic(topic.name) or ())]
        first, last = (consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)) if partitions else ({}, {})
        ranges[topic.name] = {place.partition: (first[place], last[place]) for place in partitions}
    return ranges


def records(consumer: Any, ranges: Ranges, stop: threading.Event) -> Iterator[Any]:
    """Every record inside the ranges, in any order between partitions. Raises CannotContinue when the broker falls silent."""
    from kafka import TopicPartition

    due = {TopicPartition(topic, number): end for topic, parts in ranges.items() for number, (start, end) in parts.items() if start < end}
    consumer.assign(list(due))
    for place in due:
        consumer.seek(place, ranges[place.topic][place.partition][0])
    heard = time.monotonic()
    while due:
        check(stop)
        polled = consumer.poll(timeout_ms=500)
        for place, batch in polled.items():
            yield from (record for record in batch if record.offset < ranges[place.topic][place.partition][1])
        # A transaction's marker has an offset but is no record, so the end is known by the position alone.
        finished = [place for place, end in due.items() if consumer.position(place) >= end]
        for place in finished:
            del due[place]
        if finished:
            consumer.assign(list(due)) if due else consumer.unsubscribe()
        if polled or finished:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_S:
            raise CannotContinue(f"no records for {SILENCE_S:.0f} s although {len(due)} partitions hold more; is the broker up?")


def assemble(ranges: Ranges, found: Iterable[Any], holdout_share: float, untouched_share: float = 1.0) -> Snapshot:
    """De-duplicate, sort and split what was read. Pure: the same records in any order give the same snapshot."""
    counts: Counter[str] = Counter()
    judged_share = min(holdout_share, untouched_share)
    outcomes: dict[str, tuple[str, Outcome]] = {}
    trajectories: dict[str, tuple[str, Trajectory]] = {}
    for record in found:
        counts[f"{record.topic}.read"] += 1
        try:
            _keep(record.topic, record.headers, record.value, outcomes, trajectories)
        except Malformed:
            counts[f"{record.topic}.malformed"] += 1
    rows: list[Row] = []
    training: list[Case] = []
    heldout: list[Case] = []
    lessons: list[Lesson] = []
    for row_id, (text, outcome) in sorted(outcomes.items()):
        case = case_of(outcome)
        if isinstance(case, Unusable):
            counts[f"outcomes.{case}"] += 1
            continue
        held_out = _held_out(case.query, holdout_share)
        if held_out and not _held_out(case.query, judged_share):
            counts["outcomes.trained_an_ancestor"] += 1
            continue
        (heldout if held_out else training).append(case)
        rows.append(Row("outcome", row_id, held_out, text))
    for row_id, (text, trajectory) in sorted(trajectories.items()):
        lesson = lesson_of(trajectory)
        if isinstance(lesson, Unusable):
            counts[f"trajectories.{lesson}"] += 1
        elif _held_out(lesson.case.query, holdout_share):
            counts["trajectories.held_out"] += 1
        else:
            lessons.append(lesson)
            rows.append(Row("trajectory", row_id, held_out=False, message=text))
    counts |= {"outcomes": len(outcomes), "trajectories": len(trajectories), "training_outcomes": len(training), "lessons": len(lessons)}
    counts |= {"heldout_outcomes": len(heldout), "heldout_users": len({case.user for case in heldout})}
    counts["training_users"] = len({case.user for case in training} | {lesson.case.user for lesson in lessons})
    return Snapshot(ranges, rows, training, heldout, lessons, dict(sorted(counts.items())), judged_share)


def _keep(topic: str, headers: Headers, value: bytes | None, outcomes: dict[str, tuple[str, Outcome]], trajectories: dict[str, tuple[str, Trajectory]]) -> None:
    """Of records with the same id the first in text order stays: a repeat may differ in a measured millisecond."""
    if topic == OUTCOMES.name:
        outcome, _ = read(Outcome, headers, value)
        row_id, text = str(outcome.outcome_id), _canonical(outcome)
        if row_id not in outcomes or text < outcomes[row_id][0]:
            outcomes[row_id] = (text, outcome)
    else:
        trajectory, _ = read(Trajectory, headers, value)
        row_id, text = str(trajectory.trajectory_id), _canonical(trajectory)
        if row_id not in trajectories or text < trajectories[row_id][0]:
            trajectories[row_id] = (text, trajectory)


def _canonical(message: Outcome | Trajectory) -> str:
    return json.dumps(message.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _held_out(query: Query, share: float) -> bool:
    return is_held_out(query.tenant, query.user, share)
