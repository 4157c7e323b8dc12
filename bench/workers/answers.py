"""Figures from the answers that a reader of committed records has read. No I/O.

Times are seconds since the epoch, by one machine's clock.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from traffic.observer import percentile


@dataclass(frozen=True)
class ReadRecord:
    """One record, unparsed, with the time at which it became visible."""

    visible_s: float
    partition: int
    offset: int
    value: bytes


@dataclass(frozen=True)
class TimedAnswer:
    id: str  # of the query
    user: str
    partition: int
    offset: int
    due_s: float  # the due time of the query
    asked_s: float  # the time of sending
    began_s: float  # of the attempt that succeeded
    ended_s: float
    call_s: float  # the duration of the call
    visible_s: float  # the time at which the reader got the answer

    @property
    def total_ms(self) -> float:
        return (self.visible_s - self.asked_s) * 1000

    @property
    def added_ms(self) -> float:
        return self.total_ms - self.call_s * 1000


def parse_answer(record: ReadRecord) -> TimedAnswer:
    """Parses a draft of the simulated call."""
    draft = json.loads(record.value)
    query = draft["query"]
    sent, began, ended = map(float, draft["answer"].split())
    due = datetime.fromisoformat(query["asked_at"]).timestamp()
    return TimedAnswer(query["query_id"], query["user"], record.partition, record.offset, due, sent, began, ended, draft["base_ms"] / 1000, record.visible_s)


def repeats(answers: Iterable[TimedAnswer]) -> int:
    """Answers beyond the first of each query."""
    return sum(times - 1 for times in Counter(answer.id for answer in answers).values())


@dataclass(frozen=True)
class Rate:
    records: int
    seconds: float
    per_s: float


def steady_rate(visible_s: Sequence[float], begin_s: float, end_s: float) -> Rate:
    """The rate of answers in [begin, end): from the first time at which answers became visible to the last. The answers of the first time do not count.

    Answers arrive in batches, one per commit. Any other window would count a batch too many or too few.
    """
    inside = sorted(at for at in visible_s if begin_s <= at < end_s)
    if not inside or inside[0] == inside[-1]:
        return Rate(len(inside), 0.0, 0.0)
    records = sum(at > inside[0] for at in inside)
    seconds = inside[-1] - inside[0]
    return Rate(records, seconds, records / seconds)


#: Milliseconds, by name of the figure. None without values.
Spread = dict[str, float] | None


def spread(values: Sequence[float]) -> Spread:
    if not values:
        return None
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    percentiles = {name: round(percentile(values, share) or 0.0, 2) for name, share in shares.items()}
    return {"count": len(values), "mean": round(sum(values) / len(values), 2), **percentiles, "max": round(max(values), 2)}


def added_by_step(answers: Sequence[TimedAnswer]) -> dict[str, Spread]:
    """The steps of the added latency: before the handler, in the handler without the call, and from its end until the answer is visible.

    `due to asked` is the load's own lateness, which is not added latency.
    """
    return {
        "due to asked": spread([(a.asked_s - a.due_s) * 1000 for a in answers]),
        "asked to begun": spread([(a.began_s - a.asked_s) * 1000 for a in answers]),
        "begun to ended, less the call": spread([(a.ended_s - a.began_s - a.call_s) * 1000 for a in answers]),
        "ended to visible": spread([(a.visible_s - a.ended_s) * 1000 for a in answers]),
    }


def out_of_order(answers: Iterable[TimedAnswer]) -> int:
    """Number of answers that are behind the answer to a later query of the same user. For queries sent in the order of `asked_s`."""
    latest: dict[str, float] = {}
    count = 0
    for answer in sorted(answers, key=lambda answer: (answer.partition, answer.offset)):
        before = latest.get(answer.user, float("-inf"))
        count += answer.asked_s < before
        latest[answer.user] = max(before, answer.asked_s)
    return count
