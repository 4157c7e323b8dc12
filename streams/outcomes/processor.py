"""Joins responses and feedback to outcomes, whichever comes first. The user's own text goes back to `interactions`.

Both topics have the user as key and equally many partitions, so both records of a join reach the same process. Feedback that the platform's partitioner
put elsewhere is forwarded first (`infra.kafka.forwarding`). One stream reads both topics record
by record, so two records cannot miss each other. Every id is derived: joining again after a restart repeats a record and adds none. A conflict
becomes a dead letter: a response to another query under the same query id, or other feedback under the same feedback id, such as feedback to
another query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from infra.errors import PoisonMessage
from infra.kafka.forwarding import Forwarder
from schemas.dead_letters import dead_letter
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.messages import IdConflict, Malformed, MessageIdentity
from schemas.outcomes import Outcome
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.responses import Response
from schemas.topics import FEEDBACK, INTERACTIONS, JOIN_STATE_CHANGELOG_BYTES, MAX_MESSAGE_BYTES, OUTCOMES, RESPONSES
from streams.app.join_state import JoinState, PendingRecords
from streams.app.processor import GROUP, output

#: Maximum bytes of feedback that waits for one response, because it is one record of the changelog.
PENDING_BYTES = MAX_MESSAGE_BYTES
#: Maximum number of such feedback. Each one is compared with those before it, and writes all of them to the changelog.
PENDING_FEEDBACK = 100
#: The same for a response. A record of a compressed batch may be larger than its topic's limit.
RESPONSE_BYTES = JOIN_STATE_CHANGELOG_BYTES - 4096


class OutcomesProcessor:
    """`assigned` returns the partitions assigned to this process. `now` is the wall clock, in seconds. Without `forwarder` nothing is forwarded."""

    name = "outcomes"
    topics = (RESPONSES.name, FEEDBACK.name)
    batch = 64
    linger_s = 0.001

    def __init__(
        self,
        state: JoinState,
        *,
        join_window_s: float,
        assigned: Callable[[], set[int]],
        now: Callable[[], float] = time.time,
        forwarder: Forwarder | None = None,
    ) -> None:
        self._state = state
        self._window_s = join_window_s
        self._assigned = assigned
        self._now = now
        self._forwarder = forwarder
        self._expired_at = now()

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """The outcomes and interactions of each record in turn, dead letters for records that cannot be joined, and then the state's changelog."""
        produced: list[ProducedRecord] = []
        for record in records:
            produced += or_dead_letter(record, partial(self._on_response if record.topic == RESPONSES.name else self._on_feedback, record))
        produced += self._expire()
        return produced + self._state.take_changes()

    def _on_response(self, record: ConsumedRecord) -> list[ProducedRecord]:
        response, _ = record.read(Response)
        query = response.identity
        earlier = self._state.response(query)
        if earlier and earlier.records[0].read(Response)[0].content_digest() != response.content_digest():
            raise IdConflict(earlier.records[0].source)
        waiting = self._pending(record)
        if len(waiting.to_bytes()) > RESPONSE_BYTES:
            raise PoisonMessage("it is too large to wait for feedback")
        self._state.put_response(query, waiting)
        pending = self._state.feedback(query)
        if pending is None:
            return []
        self._state.drop_feedback(query, pending)
        return [produced for feedback in pending.records for produced in or_dead_letter(feedback, partial(self._join, record, feedback))]

    def _on_feedback(self, record: ConsumedRecord) -> list[ProducedRecord]:
        feedback, _ = record.read(Feedback)
        if self._forwarder and self._forwarder.is_misplaced(record, feedback.key):
            return [self._forwarder.forward(record, feedback.key)]
        query = MessageIdentity(feedback.key, feedback.query_id)
        response = self._state.response(query)
        if response is not None:
            return self._join(response.records[0], record)
        earlier = self._state.feedback(query)
        pending = self._pending(record) if earlier is None else PendingRecords(earlier.since_ms, earlier.partition, with_record(earlier.records, record))
        if len(pending.records) > PENDING_FEEDBACK or len(pending.to_bytes()) > PENDING_BYTES:
            raise PoisonMessage("too much feedback waits for the response to its query")
        self._remember(record, feedback)
        if pending != earlier:
            self._state.put_feedback(query, pending)
        return []

    def _join(self, response: ConsumedRecord, feedback: ConsumedRecord) -> list[ProducedRecord]:
        """A repeat of joined feedback is joined again: after a crash it is unknown whether its outcome was written."""
        produced = join(response, feedback)
        self._remember(feedback, feedback.read(Feedback)[0])
        return produced

    def _remember(self, record: ConsumedRecord, feedback: Feedback) -> None:
        """Raises IdConflict. Feedback that becomes a dead letter is not remembered: its producer may send it again, corrected."""
        self._state.remember(record, feedback, round(self._now() * 1000))

    def _expire(self) -> list[ProducedRecord]:
        """Dead letters for feedback whose response did not come. Reads the whole state, so it runs once a minute at most."""
        now = self._now()
        if now - self._expired_at < min(60.0, self._window_s):
            return []
        self._expired_at = now
        error = PoisonMessage(f"no response to its query came within {self._window_s:g} s")
        expired = self._state.expire(round((now - self._window_s) * 1000), self._assigned())
        return [dead_letter(record, GROUP, error) for pending in expired for record in pending.records]

    def _pending(self, record: ConsumedRecord) -> PendingRecords:
        return PendingRecords(round(self._now() * 1000), record.partition, (record,))


def or_dead_letter(record: ConsumedRecord, handle: Callable[[], list[ProducedRecord]]) -> list[ProducedRecord]:
    """What `handle` makes of `record`, or its dead letter."""
    try:
        return handle()
    except (Malformed, IdConflict, PoisonMessage) as error:
        return [dead_letter(record, GROUP, error)]


def join(response_record: ConsumedRecord, feedback_record: ConsumedRecord) -> list[ProducedRecord]:
    """The outcome and, if the user wrote something, the interaction. Both records are readable and of one user. The output continues the query's trace, and
    links to the feedback's.

    Raises PoisonMessage if a message is larger than its topic's limit.
    """
    (response, envelope), (feedback, feedbacks_envelope) = response_record.read(Response), feedback_record.read(Feedback)
    answer_trace, links = envelope.traceparent, (feedbacks_envelope.traceparent,)
    outcome, interaction = Outcome.joined(response, feedback), Interaction.from_feedback(response.context.draft.query, feedback)
    produced = [output(OUTCOMES, outcome, id=outcome.outcome_id, traceparent=answer_trace, links=links)]
    if interaction is not None:
        produced.append(output(INTERACTIONS, interaction, id=interaction.interaction_id, traceparent=answer_trace, links=links))
    return produced


def with_record(pending: Sequence[ConsumedRecord], record: ConsumedRecord) -> tuple[ConsumedRecord, ...]:
    """The pending records and `record`; without `record` if it repeats one of them. Raises IdConflict.

    A pending record may be unreadable: it was stored before an update that changed what feedback may hold.
    """
    identity, digest = record.fingerprint(Feedback) or (None, None)
    for earlier in pending:
        known = earlier.fingerprint(Feedback)
        if known and known.identity == identity:
            if known.digest != digest:
                raise IdConflict(earlier.source)
            return tuple(pending)
    return (*pending, record)
