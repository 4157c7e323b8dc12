"""The records of a collection: a summary of each, its text in the spool, and the users who requested erasure.

A summary takes some hundred bytes. Messages are dropped as soon as they are summarized.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from schemas.eligibility import Ineligible
from schemas.envelope import read_message
from schemas.erasures import ErasureRequest
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.topics import ERASURES, OUTCOMES
from schemas.trajectories import Trajectory
from trainer.data.offset_ranges import Ranges
from trainer.data.query_cases import SftExample, case_of, sft_example_key, sft_example_of
from trainer.data.record_selection import TOPIC, RecordSummary, RowKind
from trainer.data.snapshot import canonical
from trainer.data.text_spool import TextSpool


class CollectedRecords:
    """De-duplicates records by their id. `parent_ranges` were read by the parent's run: records in them are old."""

    def __init__(self, parent_ranges: Ranges, directory: Path | None) -> None:
        self.summaries: dict[tuple[RowKind, bytes], RecordSummary] = {}
        self.erased: dict[str, float] = {}  # user -> time of the latest erasure request
        self.counts: Counter[str] = Counter(dict.fromkeys(TOPIC.values(), 0))
        self.spool = TextSpool(directory)
        self._parent_ranges = parent_ranges

    def add(self, record: Any) -> None:
        self.counts[f"{record.topic}.read"] += 1
        if record.topic == ERASURES.name:
            self._add_erasure(record)
            return
        expected: type[Outcome | Trajectory] = Outcome if record.topic == OUTCOMES.name else Trajectory
        try:
            message, _ = read_message(expected, record.headers, record.value)
        except Malformed:
            self.counts[f"{record.topic}.malformed"] += 1
        else:
            start, end = self._parent_ranges.get(record.topic, {}).get(record.partition, (0, 0))
            self._add_message(message, is_old=start <= record.offset < end)

    def _add_message(self, message: Outcome | Trajectory, is_old: bool) -> None:
        """Keep the first in text order of the records with the same id: a repeat may differ in a measured millisecond. If one is old, all are."""
        text, kind = canonical(message), RowKind.OUTCOME if isinstance(message, Outcome) else RowKind.TRAJECTORY
        row_id = (message.outcome_id if isinstance(message, Outcome) else message.trajectory_id).bytes
        earlier = self.summaries.get((kind, row_id))
        if earlier is None:
            self.counts[TOPIC[kind]] += 1
        else:
            is_old = is_old or earlier.is_old
            if self.spool.get(earlier.span) <= text:
                self.summaries[kind, row_id] = earlier._replace(is_old=is_old)
                return
        self.summaries[kind, row_id] = self._summary(message, kind, row_id, text, is_old)

    def _summary(self, message: Outcome | Trajectory, kind: RowKind, row_id: bytes, text: bytes, is_old: bool) -> RecordSummary:
        outcome = message if isinstance(message, Outcome) else message.outcome
        usable = case_of(message) if isinstance(message, Outcome) else sft_example_of(message)
        context = outcome.response.context
        query = context.draft.query
        return RecordSummary(
            kind,
            row_id,
            user=sys.intern(outcome.key.decode()),
            domain=sys.intern(query.domain),
            asked_at=query.asked_at.timestamp(),
            earliest=min(query.asked_at, outcome.occurred_at, *(item.occurred_at for item in context.items)).timestamp(),
            example_key=sft_example_key(usable) if isinstance(usable, SftExample) else None,
            has_history=bool(context.items),
            is_old=is_old,
            ineligible=usable if isinstance(usable, Ineligible) else None,
            span=self.spool.put(text),
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
