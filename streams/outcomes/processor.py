"""Responses and feedback into outcomes, whichever comes first; the user's own words go back to `interactions`.

Both topics are keyed by user and have equal partition counts, so both halves reach the same process. One stream reads both, record by record:
no half can pass the other unseen. Every id is derived, so joining again after a restart repeats, and adds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from infra.errors import PoisonMessage
from schemas.feedback import Feedback
from schemas.history import Interaction, Origin
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.responses import Response
from schemas.topics import FEEDBACK, INTERACTIONS, MAX_MESSAGE_BYTES, OUTCOMES, RESPONSES
from streams.app.join_state import Half, Halves
from streams.app.records import Arrival, Outgoing, outgoing, set_aside

#: Feedback that may wait for one response, in bytes: it shares a changelog record.
WAITING_BYTES = MAX_MESSAGE_BYTES


class Outcomes:
    """`mine` tells the partitions assigned to this process; `now` is the wall clock, in seconds."""

    name = "outcomes"
    topics = (RESPONSES.name, FEEDBACK.name)
    batch = 64
    linger_s = 0.001

    def __init__(self, halves: Halves, *, join_window_s: float, mine: Callable[[], set[int]], now: Callable[[], float] = time.time) -> None:
        self._halves = halves
        self._window_s = join_window_s
        self._mine = mine
        self._now = now
        self._swept_at = now()

    async def handle(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """What follows from each record in turn, dead letters for what cannot be joined, and the state's changelog behind them."""
        produced: list[Outgoing] = []
        for arrival in arrivals:
            try:
                produced += self._on_response(arrival) if arrival.topic == RESPONSES.name else self._on_feedback(arrival)
            except (Malformed, PoisonMessage) as error:
                produced.append(set_aside(arrival, error))
        produced += self._expire()
        return produced + self._halves.take_changes()

    def _on_response(self, arrival: Arrival) -> list[Outgoing]:
        response, _ = arrival.read(Response)
        known = self._halves.response(response.query_id)
        if known and owner(known.arrivals[0].read(Response)[0]) != owner(response):
            raise PoisonMessage("its query_id is already that of another user's query")
        self._halves.put_response(response.query_id, self._half(arrival))
        waiting = self._halves.feedback(response.query_id)
        if waiting is None:
            return []
        self._halves.drop_feedback(response.query_id, waiting)
        return [record for feedback in waiting.arrivals for record in join(arrival, feedback)]

    def _on_feedback(self, arrival: Arrival) -> list[Outgoing]:
        feedback, _ = arrival.read(Feedback)
        response = self._halves.response(feedback.query_id)
        if response is not None:
            return join(response.arrivals[0], arrival)
        waiting = self._halves.feedback(feedback.query_id)
        half = self._half(arrival) if waiting is None else Half(waiting.since_ms, waiting.partition, unrepeated(waiting.arrivals, arrival))
        if len(half.to_bytes()) > WAITING_BYTES:
            raise PoisonMessage("too much feedback waits for the response to its query")
        self._halves.put_feedback(feedback.query_id, half)
        return []

    def _expire(self) -> list[Outgoing]:
        """Looks through all halves, so at most every minute."""
        now = self._now()
        if now - self._swept_at < min(60.0, self._window_s):
            return []
        self._swept_at = now
        late = PoisonMessage(f"no response to its query came within {self._window_s:g} s")
        expired = self._halves.expire(round((now - self._window_s) * 1000), self._mine())
        return [set_aside(arrival, late) for half in expired for arrival in half.arrivals]

    def _half(self, arrival: Arrival) -> Half:
        return Half(round(self._now() * 1000), arrival.partition, (arrival,))


def join(response_arrival: Arrival, feedback_arrival: Arrival) -> list[Outgoing]:
    """The outcome and, where the user said something, the interaction; a dead letter for feedback that is not of the query's user.

    Both records have been read before. The trace that goes on is the query's.
    """
    response, envelope = response_arrival.read(Response)
    feedback, _ = feedback_arrival.read(Feedback)
    if (feedback.tenant, feedback.user) != owner(response):
        return [set_aside(feedback_arrival, PoisonMessage("its tenant or user is not that of its query"))]
    outcome = Outcome.joined(response, feedback)
    try:
        produced = [outgoing(OUTCOMES, outcome, id=outcome.outcome_id, traceparent=envelope.traceparent)]
        interaction = own_words(response, feedback)
        if interaction is not None:
            produced.append(outgoing(INTERACTIONS, interaction, id=interaction.interaction_id, traceparent=envelope.traceparent))
    except PoisonMessage as error:
        return [set_aside(feedback_arrival, error)]
    return produced


def own_words(response: Response, feedback: Feedback) -> Interaction | None:
    """What the user wrote instead, as an interaction; never what a model wrote (docs/rules.md, 1). None for a bare score.

    It happened no earlier than the query, whatever the feedback's clock says: the same query asked again must not find its own truth.
    """
    if feedback.truth is None or not feedback.truth.strip():
        return None
    query = response.context.draft.query
    return Interaction(
        interaction_id=derive("feedback-interaction", query.tenant, query.user, feedback.feedback_id),
        tenant=query.tenant,
        user=query.user,
        domain=query.domain,
        content=query.text,
        response=feedback.truth,
        occurred_at=max(feedback.occurred_at, query.asked_at),
        origin=Origin.FEEDBACK,
    )


def owner(response: Response) -> tuple[str, str]:
    query = response.context.draft.query
    return query.tenant, query.user


def unrepeated(waiting: Sequence[Arrival], arrival: Arrival) -> tuple[Arrival, ...]:
    """The waiting records and one more, unless it is one of them read again."""
    places = {(each.topic, each.partition, each.offset) for each in waiting}
    return (*waiting, arrival) if (arrival.topic, arrival.partition, arrival.offset) not in places else tuple(waiting)
