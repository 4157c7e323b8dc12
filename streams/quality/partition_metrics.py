"""The quality metrics of one partition, from its responses, outcomes and shadow answers, in any order of the three topics.

Times are the records' timestamps, from the clocks of our own processes: when an answer or an outcome was written. Platforms' clocks are not used.

State and how long it is kept:

- windows until LATE_S after their end, by the slowest topic that still has unread records; later records count in no window;
- experiments until IDLE_S without a record, longer than feedback may take (`streams.join_window_s`); later records do not count;
- the identities of the last REMEMBERED records of each topic: a repeat among them counts once, and a conflict with one of them does not count;
- `quality.waiting` shadow answers without a truth, and as many truths without a shadow answer; the oldest are dropped.

Within these bounds the cells depend on the records alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from infra.settings.promotion import QualitySettings
from infra.telemetry.metrics import QUALITY_RECORDS, QUALITY_SCORED, QualityOutcome
from schemas.eligibility import valid_truth
from schemas.experiments import Arm, Assignment
from schemas.messages import MessageIdentity
from schemas.outcomes import Outcome
from schemas.quality import Metric, Moments, Quality
from schemas.responses import Response, ResponseStatus
from schemas.shadows import Shadow, shadow_id
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import ENDED, PartitionCheckpoint
from streams.quality.measures import MetricValues, assignment_of, outcome_values, response_values, reward, shadow_values
from streams.quality.seen_ids import SeenIds
from streams.quality.shadow_join import AnswerLabels, ShadowAnswer, ShadowJoin, UserTruth
from streams.quality.sums import Cell, CellSums, user_hash

TOPICS = (RESPONSES.name, OUTCOMES.name, SHADOWS.name)
LATE_S = 300.0
IDLE_S = 172_800.0
REMEMBERED = 50_000

QualityMessage = Response | Outcome | Shadow
WindowOrExperiment = float | UUID  # a window by its start
#: The latest time that a datetime can hold.
_LAST_AT = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class RecordRef(NamedTuple):
    """Topic, offset and timestamp of one record of the partition."""

    topic: str
    offset: int
    at: float

    @classmethod
    def of(cls, topic: str, offset: int, timestamp_ms: int) -> RecordRef:
        """A broker accepts any number as a timestamp: one outside the range of a datetime is clipped."""
        return cls(topic, offset, min(max(timestamp_ms / 1000, 0.0), _LAST_AT))


class PartitionMetrics:
    """`name` is the registered model's; `checkpoints` are the committed ones, by topic. Not safe between threads."""

    def __init__(
        self,
        partition: int,
        name: str,
        settings: QualitySettings,
        checkpoints: Mapping[str, PartitionCheckpoint] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._partition, self._name, self._window_s, self._now = partition, name, settings.window_s, now
        stored = dict(checkpoints or {})
        self._read_to = {topic: checkpoint.read_to for topic, checkpoint in stored.items()}
        self._released = max((checkpoint.released for checkpoint in stored.values()), default=0.0)
        self._ended = list(dict.fromkeys(ended for checkpoint in stored.values() for ended in checkpoint.ended))
        self._next: dict[str, int] = {}
        self._clocks: dict[str, float] = {}
        self._sums: dict[Cell, CellSums] = {}
        self._changed: dict[Cell, None] = {}
        self._first: dict[WindowOrExperiment, dict[str, int]] = {}  # the first offset of each topic that counts in it
        self._active: dict[UUID, float] = {}  # live experiments, with the time of their last record
        self._seen = {topic: SeenIds(REMEMBERED) for topic in TOPICS}
        self._rewarded = SeenIds(REMEMBERED)  # answers with a reward
        self._shadow_join = ShadowJoin(settings.waiting)

    def is_new(self, topic: str, offset: int) -> bool:
        """Whether this record was not read yet: after a rebalance the topics are re-read from their committed offsets."""
        return offset >= self._next.get(topic, 0)

    def count(self, message: QualityMessage, ref: RecordRef) -> None:
        """Count one record. The records of a topic come in order."""
        self.skip(ref)
        match message:
            case Response():
                outcome = self._on_response(message, ref)
            case Outcome():
                outcome = self._on_outcome(message, ref)
            case Shadow():
                outcome = self._on_shadow(message, ref)
        QUALITY_RECORDS.add(topic=ref.topic, outcome=outcome)

    def skip(self, ref: RecordRef) -> None:
        """Read a record without counting it."""
        self._next[ref.topic] = ref.offset + 1
        self._clocks[ref.topic] = max(self._clocks.get(ref.topic, 0.0), min(ref.at, self._now()))

    def clock(self, topic: str) -> float | None:
        """The timestamp of the newest record of a topic. None before the first."""
        return self._clocks.get(topic)

    def is_rebuilt(self, positions: Mapping[str, int]) -> bool:
        """Whether everything that the published figures include is read again. Before that the sums would be too small."""
        self._read_to = {topic: end for topic, end in self._read_to.items() if positions.get(topic, 0) < end}
        return not self._read_to

    def take_changed(self) -> list[Quality]:
        """Cells that changed since the last call: of experiments, and of windows that are over."""
        now = self._now()
        changed = [cell for cell in self._changed if cell.window is None or cell.window + self._window_s <= now]
        for cell in changed:
            del self._changed[cell]
        return [self._sums[cell].quality(self._partition, self._window_s, datetime.fromtimestamp(now, UTC)) for cell in changed]

    def release(self, caught_up: Collection[str]) -> None:
        """Drop windows and experiments that are final and published. `caught_up`: topics without unread records."""
        behind = [self._clocks.get(topic, 0.0) for topic in TOPICS if topic not in caught_up]
        read_by_all = min(behind, default=self._now())
        self._released = max(self._released, self._window(read_by_all - LATE_S))
        idle = {experiment for experiment, last in self._active.items() if read_by_all - last > IDLE_S}
        self._drop({span for span in self._first if (span < self._released if isinstance(span, float) else span in idle)})
        self._active = {experiment: last for experiment, last in self._active.items() if experiment not in idle}
        self._ended = [*self._ended, *idle][-ENDED:]
        self._shadow_join.drop(idle)

    def checkpoint(self, topic: str, position: int) -> tuple[int, PartitionCheckpoint]:
        """The offset and the checkpoint to commit for `topic`, which is read up to `position`. Every record that is still needed is at or after the offset."""
        low_water = min((first[topic] for first in self._first.values() if topic in first), default=position)
        clock = max(self._clocks.values(), default=0.0)
        ended = tuple(self._ended)
        return low_water, PartitionCheckpoint(read_to=position, released=self._released, clock=clock, live=tuple(self._active), ended=ended)

    def rewards(self, window: float) -> Iterator[tuple[Cell, Moments]]:
        """The cells of one window by domain, with the moments of their reward, if they have scored answers."""
        for cell, sums in self._sums.items():
            if cell.window == window and cell.domain is not None and (moments := sums.moments(Metric.REWARD)).n:
                yield cell, moments

    def _on_response(self, response: Response, ref: RecordRef) -> QualityOutcome:
        assignment = assignment_of(response)
        if assignment is None:
            return QualityOutcome.UNUSED
        if earlier := self._earlier(response, ref):
            return earlier
        self._add(self._labels(response, assignment), ref, response_values(response), response.status)
        return QualityOutcome.COUNTED

    def _on_shadow(self, shadow: Shadow, ref: RecordRef) -> QualityOutcome:
        if earlier := self._earlier(shadow, ref):
            return earlier
        labels, values = AnswerLabels(shadow.model.name, shadow.assignment, shadow.domain, user_hash(shadow.key)), shadow_values(shadow)
        self._add(labels, ref, values, shadow.status)
        if values and self._is_live(shadow.assignment.experiment):
            answer = ShadowAnswer(ref.at, labels, shadow.answer)
            truth = self._shadow_join.add_answer(MessageIdentity(shadow.key, shadow.query_id), answer)
            if truth:
                self._score_shadow(answer, truth, ref)
        return QualityOutcome.COUNTED

    def _on_outcome(self, outcome: Outcome, ref: RecordRef) -> QualityOutcome:
        response = outcome.response
        assignment, values = assignment_of(response), outcome_values(outcome)
        if assignment is None or not values:
            return QualityOutcome.UNUSED
        if self._earlier(outcome, ref) is QualityOutcome.CONFLICT:
            return QualityOutcome.CONFLICT
        self._join_truth(outcome, assignment, values, ref)
        # An answer has one reward: the first usable feedback counts.
        if self._rewarded.add(response.identity) is not None:
            return QualityOutcome.REPEAT
        labels = self._labels(response, assignment)
        self._add(labels, ref, values)
        QUALITY_SCORED.add(version=assignment.version, arm=assignment.arm, domain=labels.domain)
        return QualityOutcome.COUNTED

    def _earlier(self, message: QualityMessage, ref: RecordRef) -> QualityOutcome | None:
        """REPEAT or CONFLICT if an earlier message has the identity of this one, else None."""
        is_same = self._seen[ref.topic].add(message.identity, message.content_digest())
        if is_same is None:
            return None
        return QualityOutcome.REPEAT if is_same else QualityOutcome.CONFLICT

    def _join_truth(self, outcome: Outcome, assignment: Assignment, shown_values: MetricValues, ref: RecordRef) -> None:
        """Score the shadow answer to the same query with the user's truth, now or when it arrives."""
        truth, query = valid_truth(outcome), outcome.response.identity
        if truth is None or assignment.arm is not Arm.CHAMPION or not self._is_live(assignment.experiment):
            return
        options = outcome.response.context.draft.query.options
        user_truth = UserTruth(ref.at, options, truth, shown_values[Metric.REWARD], shown_values[Metric.BASE_REWARD])
        shadow = MessageIdentity(query.key, shadow_id(assignment.experiment, query.id))
        answer = self._shadow_join.add_truth(query, user_truth, is_awaited=shadow not in self._seen[SHADOWS.name])
        if answer:
            self._score_shadow(answer, user_truth, ref)

    def _score_shadow(self, answer: ShadowAnswer, truth: UserTruth, ref: RecordRef) -> None:
        """Counts in the window of the later of the two, which stays open until both are read."""
        labels, shadow_reward = answer.labels, reward(truth.options, answer.answer, truth.truth)
        values = {Metric.REWARD: shadow_reward, Metric.BASE_REWARD: truth.base_reward, Metric.GAIN: shadow_reward - truth.shown_reward}
        self._add(labels, ref._replace(at=max(answer.at, truth.at)), values)
        QUALITY_SCORED.add(version=labels.assignment.version, arm=Arm.SHADOW, domain=labels.domain)

    def _labels(self, response: Response, assignment: Assignment) -> AnswerLabels:
        model = response.provenance.model
        return AnswerLabels(model.name if model else self._name, assignment, response.context.draft.query.domain, user_hash(response.key))

    def _add(self, labels: AnswerLabels, ref: RecordRef, values: MetricValues, status: ResponseStatus | None = None) -> None:
        """Add to the cells of the record's window and of its experiment, each by domain and over all domains."""
        assignment = labels.assignment
        for span in self._spans(assignment.experiment, ref.at):
            first = self._first.setdefault(span, {})
            first[ref.topic] = min(ref.offset, first.get(ref.topic, ref.offset))
            window = span if isinstance(span, float) else None
            for domain in (labels.domain, None):
                cell = Cell(labels.name, assignment.version, assignment.experiment, assignment.arm, domain, window)
                if cell not in self._sums:
                    self._sums[cell] = CellSums(cell)
                self._sums[cell].add(ref.at, labels.user, values, status)
                self._changed[cell] = None

    def _spans(self, experiment: UUID | None, at: float) -> Iterator[WindowOrExperiment]:
        """The window and the experiment in which a record counts. A record from the future opens no window: it would stay open until then."""
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

    def _drop(self, spans: Collection[WindowOrExperiment]) -> None:
        if not spans:
            return
        for span in spans:
            del self._first[span]
        self._sums = {cell: sums for cell, sums in self._sums.items() if (cell.experiment if cell.window is None else cell.window) not in spans}
        self._changed = {cell: None for cell in self._changed if cell in self._sums}
