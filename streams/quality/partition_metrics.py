"""The quality metrics of one partition, from its responses, outcomes and shadow answers, in any order of the three topics.

Times are the records' timestamps, from the clocks of our own processes: when an answer or an outcome was written. Platforms' clocks are not used.

State and how long it is kept:

- windows, experiments and comparisons while they are open (`open_spans`);
- the identities of the last REMEMBERED records of each topic: a repeat among them counts once, and a conflict with one of them does not count;
- `quality.waiting` shadow answers without a truth, and as many truths without a shadow answer; the oldest are dropped.

Within these bounds the cells depend on the records alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from infra.settings.promotion import QualitySettings
from infra.telemetry.metrics import QUALITY_RECORDS, QUALITY_SCORED, QualityOutcome
from schemas.domains import Domains
from schemas.eligibility import valid_truth
from schemas.experiments import Arm
from schemas.measures import MeasureFailed
from schemas.messages import MessageIdentity
from schemas.outcomes import Outcome
from schemas.quality import Metric, Moments, Quality
from schemas.responses import Response, ResponseStatus
from schemas.shadows import Shadow, shadow_id
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import PartitionCheckpoint
from streams.quality.labels import AnswerLabels, CountedAnswer, counted_outcome, counted_response
from streams.quality.measures import measure_of, shadow_values
from streams.quality.open_spans import OpenSpans, RecordRef, Span
from streams.quality.seen_ids import SeenIds
from streams.quality.shadow_join import ShadowAnswer, ShadowJoin, UserTruth
from streams.quality.sums import Cell, CellSums, user_hash

log = logging.getLogger(__name__)

TOPICS = (RESPONSES.name, OUTCOMES.name, SHADOWS.name)
REMEMBERED = 50_000

QualityMessage = Response | Outcome | Shadow


class PartitionMetrics:
    """`name` is the registered model's; `entries` name the reward of each domain; `checkpoints` are the committed ones, by topic. Not safe between threads."""

    def __init__(
        self,
        partition: int,
        name: str,
        settings: QualitySettings,
        entries: Domains,
        checkpoints: Mapping[str, PartitionCheckpoint] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._entries = entries
        self._partition, self._name, self._window_s, self._now = partition, name, settings.window_s, now
        stored = dict(checkpoints or {})
        self._read_to = {topic: checkpoint.read_to for topic, checkpoint in stored.items()}
        self._spans = OpenSpans(settings, stored.values(), now)
        self._next: dict[str, int] = {}
        self._clocks: dict[str, float] = {}
        self._sums: dict[Cell, CellSums] = {}
        self._changed: dict[Cell, None] = {}
        self._seen = {topic: SeenIds(REMEMBERED) for topic in TOPICS}
        self._rewarded = SeenIds(REMEMBERED)  # answers with a reward
        self._shadow_join = ShadowJoin(settings.waiting)

    def is_new(self, topic: str, offset: int) -> bool:
        """Whether this record was not read yet: after a rebalance the topics are re-read from their committed offsets."""
        return offset >= self._next.get(topic, 0)

    def count(self, message: QualityMessage, ref: RecordRef) -> None:
        """Count one record. The records of a topic come in order."""
        self.skip(ref)
        try:
            match message:
                case Response():
                    outcome = self._on_response(message, ref)
                case Outcome():
                    outcome = self._on_outcome(message, ref)
                case Shadow():
                    outcome = self._on_shadow(message, ref)
        except MeasureFailed as error:
            log.warning("an answer has no reward", extra={"topic": ref.topic, "partition": self._partition, "offset": ref.offset, "reason": str(error)})
            outcome = QualityOutcome.MEASURE_FAILED
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
        ended = self._spans.release(min(behind, default=self._now()))
        self._drop(ended)
        self._shadow_join.drop({experiment for experiment in ended if isinstance(experiment, UUID)})

    def checkpoint(self, topic: str, position: int) -> tuple[int, PartitionCheckpoint]:
        """The offset and the checkpoint to commit for `topic`, which is read up to `position`. Every record that is still needed is at or after the offset."""
        spans, clock = self._spans, max(self._clocks.values(), default=0.0)
        live = {"live": spans.live, "begun": spans.begun, "ended": tuple(spans.ended)}
        return spans.low_water(topic, position), PartitionCheckpoint(read_to=position, released=spans.released, clock=clock, **live)

    def rewards(self, window: float) -> Iterator[tuple[Cell, Moments]]:
        """The cells of one window by domain, with the moments of their reward, if they have scored answers."""
        for cell, sums in self._sums.items():
            if cell.window == window and cell.domain is not None and (moments := sums.moments(Metric.REWARD)).n:
                yield cell, moments

    def _on_response(self, response: Response, ref: RecordRef) -> QualityOutcome:
        counted = counted_response(response, self._name)
        if not counted:
            return QualityOutcome.UNUSED
        if earlier := self._earlier(response, ref):
            return earlier
        for answer in counted:
            self._add(answer, ref, response.answered_at, response.status)
        return QualityOutcome.COUNTED

    def _on_shadow(self, shadow: Shadow, ref: RecordRef) -> QualityOutcome:
        if earlier := self._earlier(shadow, ref):
            return earlier
        assignment, values = shadow.assignment, shadow_values(shadow)
        labels = AnswerLabels(shadow.model.name, assignment.version, assignment.experiment, assignment.arm, shadow.domain, user_hash(shadow.key))
        self._add(CountedAnswer(labels, values), ref, shadow.answered_at, shadow.status)
        if values and self._spans.is_live(assignment.experiment):
            answer = ShadowAnswer(ref.at, labels, shadow.answer)
            truth = self._shadow_join.add_answer(MessageIdentity(shadow.key, shadow.query_id), answer)
            if truth:
                self._score_shadow(answer, truth, ref)
        return QualityOutcome.COUNTED

    def _on_outcome(self, outcome: Outcome, ref: RecordRef) -> QualityOutcome:
        response, counted = outcome.response, counted_outcome(outcome, self._name, self._entries)
        if not counted:
            return QualityOutcome.UNUSED
        if self._earlier(outcome, ref) is QualityOutcome.CONFLICT:
            return QualityOutcome.CONFLICT
        self._join_truth(outcome, counted, ref)
        # An answer has one reward: the first usable feedback counts.
        if self._rewarded.add(response.identity) is not None:
            return QualityOutcome.REPEAT
        for answer in counted:
            self._add(answer, ref, response.answered_at)
        _count_scored(counted[0].labels)
        return QualityOutcome.COUNTED

    def _earlier(self, message: QualityMessage, ref: RecordRef) -> QualityOutcome | None:
        """REPEAT or CONFLICT if an earlier message has the identity of this one, else None."""
        is_same = self._seen[ref.topic].add(message.identity, message.content_digest())
        if is_same is None:
            return None
        return QualityOutcome.REPEAT if is_same else QualityOutcome.CONFLICT

    def _join_truth(self, outcome: Outcome, counted: Sequence[CountedAnswer], ref: RecordRef) -> None:
        """Score the shadow answer to the same query with the user's truth, now or when it arrives."""
        of_version = next((answer for answer in counted if answer.labels.is_of_version), None)
        truth, query = valid_truth(outcome), outcome.response.identity
        if of_version is None or truth is None:
            return
        labels, values = of_version
        if labels.arm is not Arm.CHAMPION or not self._spans.is_live(labels.experiment):
            return
        asked = outcome.response.context.draft.query
        user_truth = UserTruth(ref.at, measure_of(asked, self._entries), asked.options, truth, values[Metric.REWARD], values[Metric.BASE_REWARD])
        shadow = MessageIdentity(query.key, shadow_id(labels.experiment, query.id))
        answer = self._shadow_join.add_truth(query, user_truth, is_awaited=shadow not in self._seen[SHADOWS.name])
        if answer:
            self._score_shadow(answer, user_truth, ref)

    def _score_shadow(self, answer: ShadowAnswer, truth: UserTruth, ref: RecordRef) -> None:
        """Counts in the window of the later of the two, which stays open until both are read."""
        shadow_reward = truth.measure.score(answer.answer, truth.truth, truth.options)
        values = {Metric.REWARD: shadow_reward, Metric.BASE_REWARD: truth.base_reward, Metric.GAIN: shadow_reward - truth.shown_reward}
        at = max(answer.at, truth.at)
        self._add(CountedAnswer(answer.labels, values), ref._replace(at=at), datetime.fromtimestamp(at, UTC))
        _count_scored(answer.labels)

    def _add(self, answer: CountedAnswer, ref: RecordRef, answered_at: datetime, status: ResponseStatus | None = None) -> None:
        """Add to the cells of every span in which the record counts, each by domain and over all domains."""
        labels = answer.labels
        for span in self._spans.counting(labels, ref, answered_at.timestamp()):
            window = span if isinstance(span, float) else None
            for domain in (labels.domain, None):
                cell = Cell(labels.name, labels.version, labels.experiment, labels.arm, domain, window, labels.strategy, labels.comparison)
                if cell not in self._sums:
                    self._sums[cell] = CellSums(cell)
                self._sums[cell].add(ref.at, labels.user, answer.values, status)
                self._changed[cell] = None

    def _drop(self, spans: Collection[Span]) -> None:
        if not spans:
            return
        self._sums = {cell: sums for cell, sums in self._sums.items() if (cell.experiment if cell.window is None else cell.window) not in spans}
        self._changed = {cell: None for cell in self._changed if cell in self._sums}


def _count_scored(labels: AnswerLabels) -> None:
    QUALITY_SCORED.add(strategy=labels.strategy, version=labels.version, arm=labels.arm, domain=labels.domain)
