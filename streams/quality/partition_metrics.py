"""The figures of one partition, from its responses, outcomes and shadow answers, in whatever order the three topics are read.

Time is the records' own timestamp: the clock of our processes, at which an answer or its joined feedback was written. Platforms' clocks are not asked.

What is kept, and for how long:

- windows until LATE_S after their end, by the slowest of the topics that still have records ahead; later records count in no window;
- experiments until IDLE_S without a record, longer than feedback may take (`streams.join_window_s`); later records count in none;
- the ids of the last REMEMBERED records of each topic: a repeat among them counts once;
- `quality.waiting` shadow answers that no feedback judged yet, and as much feedback that no shadow answer came to; the oldest are given up.

Within these bounds the cells depend on the records alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from infra.settings import QualitySettings
from infra.telemetry.metrics import QUALITY_RECORDS, QUALITY_SCORED, QualityOutcome
from schemas.eligibility import valid_truth
from schemas.experiments import Arm, Assignment
from schemas.outcomes import Outcome
from schemas.quality import Metric, Moments, Quality
from schemas.responses import Response, ResponseStatus
from schemas.shadows import Shadow
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import ENDED, Mark
from streams.quality.measures import Values, assignment_of, of_outcome, of_response, of_shadow, reward
from streams.quality.sums import Cell, Tally, user_number
from streams.quality.waiting import Judged, Pairs, Recent, Unjudged, Whose

TOPICS = (RESPONSES.name, OUTCOMES.name, SHADOWS.name)
LATE_S = 300.0
IDLE_S = 172_800.0
REMEMBERED = 50_000

Read = Response | Outcome | Shadow
Span = float | UUID  # a window by its start, or an experiment


#: The last day that a datetime holds.
_LAST_AT = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class Place(NamedTuple):
    """Where a record stands, and when it was written."""

    topic: str
    offset: int
    at: float

    @classmethod
    def of(cls, topic: str, offset: int, timestamp_ms: int) -> Place:
        """A broker takes any number for a timestamp: one that is no instant is held to the nearest."""
        return cls(topic, offset, min(max(timestamp_ms / 1000, 0.0), _LAST_AT))


class Book:
    """One partition's. `name` is the registered model's; `marks` are what was committed, by topic. Not safe between threads."""

    def __init__(
        self, partition: int, name: str, settings: QualitySettings, marks: Mapping[str, Mark] | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._partition, self._name, self._window_s, self._now = partition, name, settings.window_s, now
        known = dict(marks or {})
        self._read_to = {topic: mark.read_to for topic, mark in known.items()}
        self._released = max((mark.released for mark in known.values()), default=0.0)
        self._ended = list(dict.fromkeys(ended for mark in known.values() for ended in mark.ended))
        self._next: dict[str, int] = {}
        self._clocks: dict[str, float] = {}
        self._tallies: dict[Cell, Tally] = {}
        self._changed: dict[Cell, None] = {}
        self._began: dict[Span, dict[str, int]] = {}  # the first record of each topic that a span rests on
        self._active: dict[UUID, float] = {}  # live experiments: when they had their last record
        self._seen = {topic: Recent(REMEMBERED) for topic in TOPICS}
        self._pairs = Pairs(settings.waiting)

    def is_new(self, topic: str, offset: int) -> bool:
        """Whether this record is still ahead: after a rebalance the topics begin anew at what was committed."""
        return offset >= self._next.get(topic, 0)

    def take(self, message: Read, place: Place) -> None:
        """Count one record. Each topic's come in their order."""
        self.passed(place)
        match message:
            case Response():
                outcome = self._on_response(message, place)
            case Outcome():
                outcome = self._on_outcome(message, place)
            case Shadow():
                outcome = self._on_shadow(message, place)
        QUALITY_RECORDS.add(topic=place.topic, outcome=outcome)

    def passed(self, place: Place) -> None:
        """Note that a record has been read; `take` does."""
        self._next[place.topic] = place.offset + 1
        self._clocks[place.topic] = max(self._clocks.get(place.topic, 0.0), min(place.at, self._now()))

    def clock(self, topic: str) -> float | None:
        """The timestamp of the newest record of a topic; None before the first."""
        return self._clocks.get(topic)

    def is_rebuilt(self, positions: Mapping[str, int]) -> bool:
        """Whether all is read that the figures last told rest on. Until then figures would be smaller than what is known already."""
        self._read_to = {topic: end for topic, end in self._read_to.items() if positions.get(topic, 0) < end}
        return not self._read_to

    def take_changed(self) -> list[Quality]:
        """Cells that changed since the last call: experiments, and windows that are over."""
        now = self._now()
        told = [cell for cell in self._changed if cell.window is None or cell.window + self._window_s <= now]
        for cell in told:
            del self._changed[cell]
        return [self._tallies[cell].quality(self._partition, self._window_s, datetime.fromtimestamp(now, UTC)) for cell in told]

    def release(self, caught_up: Collection[str]) -> None:
        """Forget what is final; it has been told. `caught_up`: topics without records ahead."""
        behind = [self._clocks.get(topic, 0.0) for topic in TOPICS if topic not in caught_up]
        passed_by_all = min(behind, default=self._now())
        self._released = max(self._released, self._window(passed_by_all - LATE_S))
        over = {experiment for experiment, last in self._active.items() if passed_by_all - last > IDLE_S}
        self._forget({span for span in self._began if (span < self._released if isinstance(span, float) else span in over)})
        self._active = {experiment: last for experiment, last in self._active.items() if experiment not in over}
        self._ended = [*self._ended, *over][-ENDED:]
        self._pairs.drop(over)

    def low_water(self, topic: str, position: int) -> tuple[int, Mark]:
        """What to commit for `topic`, which is read up to `position`: all that the live figures rest on is at that offset or after it."""
        first = min((began[topic] for began in self._began.values() if topic in began), default=position)
        clock = max(self._clocks.values(), default=0.0)
        return first, Mark(read_to=position, released=self._released, clock=clock, live=tuple(self._active), ended=tuple(self._ended))

    def rewards(self, window: float) -> Iterator[tuple[Cell, Moments]]:
        """Of one window's cells by domain, those with scored answers."""
        for cell, tally in self._tallies.items():
            if cell.window == window and cell.domain is not None and (found := tally.moments(Metric.REWARD)).n:
                yield cell, found

    def _on_response(self, response: Response, place: Place) -> QualityOutcome:
        assignment = assignment_of(response)
        if assignment is None:
            return QualityOutcome.UNUSED
        if not self._seen[place.topic].add(response.query_id):
            return QualityOutcome.REPEAT
        self._count(self._whose(response, assignment), place, of_response(response), response.status)
        return QualityOutcome.COUNTED

    def _on_shadow(self, shadow: Shadow, place: Place) -> QualityOutcome:
        if not self._seen[place.topic].add(shadow.query_id):
            return QualityOutcome.REPEAT
        whose, values = Whose(shadow.model.name, shadow.assignment, shadow.domain, user_number(shadow.key)), of_shadow(shadow)
        self._count(whose, place, values, shadow.status)
        if values and self._is_live(shadow.assignment.experiment):
            unjudged = Unjudged(place.at, whose, shadow.answer)
            judged = self._pairs.with_answer(shadow.query_id, unjudged)
            if judged:
                self._join(unjudged, judged, place)
        return QualityOutcome.COUNTED

    def _on_outcome(self, outcome: Outcome, place: Place) -> QualityOutcome:
        response = outcome.response
        assignment, values = assignment_of(response), of_outcome(outcome)
        if assignment is None or not values:
            return QualityOutcome.UNUSED
        self._judge(outcome, assignment, values, place)
        # Of all that a user says of one answer the first that can be used counts: an answer has one reward.
        if not self._seen[place.topic].add(response.query_id):
            return QualityOutcome.REPEAT
        whose = self._whose(response, assignment)
        self._count(whose, place, values)
        QUALITY_SCORED.add(version=assignment.version, arm=assignment.arm, domain=whose.domain)
        return QualityOutcome.COUNTED

    def _judge(self, outcome: Outcome, assignment: Assignment, shown: Values, place: Place) -> None:
        """Let the user's word judge the shadow answer to the same question, now or when it comes."""
        truth, query_id = valid_truth(outcome), outcome.response.query_id
        if truth is None or assignment.arm is not Arm.CHAMPION or not self._is_live(assignment.experiment):
            return
        judged = Judged(place.at, outcome.response.context.draft.query.options, truth, shown[Metric.REWARD], shown[Metric.BASE_REWARD])
        unjudged = self._pairs.with_word(query_id, judged, is_awaited=query_id not in self._seen[SHADOWS.name])
        if unjudged:
            self._join(unjudged, judged, place)

    def _join(self, unjudged: Unjudged, judged: Judged, place: Place) -> None:
        """In the window of the later of the two, which no topic has left before both are read."""
        earned = reward(judged.options, unjudged.answer, judged.truth)
        values = {Metric.REWARD: earned, Metric.BASE_REWARD: judged.base_reward, Metric.GAIN: earned - judged.shown_reward}
        self._count(unjudged.whose, place._replace(at=max(unjudged.at, judged.at)), values)
        QUALITY_SCORED.add(version=unjudged.whose.assignment.version, arm=Arm.SHADOW, domain=unjudged.whose.domain)

    def _whose(self, response: Response, assignment: Assignment) -> Whose:
        model = response.provenance.model
        return Whose(model.name if model else self._name, assignment, response.context.draft.query.domain, user_number(response.key))

    def _count(self, whose: Whose, place: Place, values: Values, status: ResponseStatus | None = None) -> None:
        """In the cells of the record's window and of its experiment, each by domain and over all."""
        assignment = whose.assignment
        for span in self._spans(assignment.experiment, place.at):
            began = self._began.setdefault(span, {})
            began[place.topic] = min(place.offset, began.get(place.topic, place.offset))
            window = span if isinstance(span, float) else None
            for domain in (whose.domain, None):
                cell = Cell(whose.name, assignment.version, assignment.experiment, assignment.arm, domain, window)
                if cell not in self._tallies:
                    self._tallies[cell] = Tally(cell)
                self._tallies[cell].add(place.at, whose.user, values, status)
                self._changed[cell] = None

    def _spans(self, experiment: UUID | None, at: float) -> Iterator[Span]:
        """Those that a record counts in. One dated ahead by more than clocks differ would keep its window, and all since, alive for as long."""
        window = self._window(at)
        if self._released <= window <= self._now() + LATE_S:
            yield window
        if experiment is not None and self._is_live(experiment):
            self._active[experiment] = max(self._active.get(experiment, 0.0), min(at, self._now()))
            yield experiment

    def _is_live(self, experiment: UUID | None) -> bool:
        return experiment is not None and experiment not in self._ended

    def _window(self, at: float) -> float:
        return at // self._window_s * self._window_s

    def _forget(self, spans: Collection[Span]) -> None:
        if not spans:
            return
        for span in spans:
            del self._began[span]
        self._tallies = {cell: tally for cell, tally in self._tallies.items() if (cell.experiment if cell.window is None else cell.window) not in spans}
        self._changed = {cell: None for cell in self._changed if cell in self._tallies}
