"""A simulated platform: sends interactions, asks questions, and sends the users' feedback.

It uses only the public topics. One thread; every wait is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from infra.errors import RetryLater
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.kafka.refusals import WRITES, refusal
from infra.settings import Settings
from schemas.interactions import Interaction
from schemas.messages import Message, MessageIdentity
from schemas.positions import Source
from schemas.responses import Response
from schemas.topics import FEEDBACK, INTERACTIONS, QUERIES, RESPONSES, Topic
from traffic.datasets.steps import Question
from traffic.observer import AnswerCounts, Observer
from traffic.schedule import AskingSchedule, Pace

#: Longest poll for responses, and so the longest delay before a timeout or a stop is noticed.
POLL_S = 0.05
FLUSH_S = 60.0


@dataclass(frozen=True)
class AskingLimits:
    """How questions are asked. `deadline_s` is the queries' deadline. An answer that comes after `timeout_s` counts as lost."""

    max_in_flight: int = 32
    timeout_s: float = 120.0
    drain_s: float = 20.0  # after a stop: how long to wait for open questions
    deadline_s: float | None = None
    gives_feedback: bool = True


@dataclass
class AskingResult:
    """The result of asking a number of questions. `unsent`: some were not asked, because of a stop or because the system answered nothing."""

    tally: AnswerCounts = field(default_factory=AnswerCounts)
    responses: dict[MessageIdentity, Response] = field(default_factory=dict)
    feedback: int = 0
    unsent: bool = False
    seconds: float = 0.0


class Platform:
    """Producer and reader of one platform. `source` is the records' `ce_source`."""

    def __init__(self, settings: Settings, source: str = "/platform") -> None:
        self._settings, self._source = settings, source
        self._responses = Observer(settings, [RESPONSES], from_end=True, client_id="platform")
        with broker_errors(self._settings, action="take records", use=WRITES):
            self._producer = producer(settings, "retouch-platform")
        self._failures: list[BaseException] = []

    def send_interactions(
        self, interactions: Iterable[Interaction], *, pace: Pace | None = None, stop: threading.Event | None = None, on_sent: Callable[[], None] | None = None
    ) -> int:
        """Send interactions. Returns their number once the broker has all of them. Raises RetryLater if it does not take them."""
        pace, stop, sent = pace or Pace(), stop or threading.Event(), 0
        for interaction in interactions:
            if stop.is_set() or stop.wait(pace.wait_s()):
                break
            self._send(INTERACTIONS, interaction, interaction.interaction_id)
            pace.took()
            sent += 1
            if on_sent:
                on_sent()
        self.flush()
        return sent

    def send_interaction(self, interaction: Interaction) -> Source:
        """Send one interaction, and block until the broker has it. Returns its position: a query with it as `after` finds the interaction.

        Raises RetryLater if the broker does not take it.
        """
        with broker_errors(self._settings, RetryLater, "take records", WRITES):
            placed = self._send(INTERACTIONS, interaction, interaction.interaction_id).get(timeout=FLUSH_S)
        return Source(topic=INTERACTIONS.name, partition=placed.partition, offset=placed.offset)

    def ask(
        self,
        schedule: AskingSchedule,
        limits: AskingLimits,
        *,
        pace: Pace | None = None,
        stop: threading.Event | None = None,
        on_asked: Callable[[Question], None] | None = None,
        on_settled: Callable[[], None] | None = None,
    ) -> AskingResult:
        """Ask all questions of the schedule, and wait for the answers. After `stop` it asks no more and waits for the open questions.

        Gives up early if as many questions as may be open at once get no answer: the system is away.
        """
        started = time.monotonic()
        open_questions: dict[MessageIdentity, tuple[Question, float]] = {}
        pace, stop, outcome = pace or Pace(), stop or threading.Event(), AskingResult()
        stopped, silent = False, 0
        while True:
            if not stopped and (stop.is_set() or silent >= limits.max_in_flight):
                stopped, outcome.unsent = True, not schedule.over
                drain_until = time.monotonic() + limits.drain_s
                open_questions = {query: (question, min(expires_at, drain_until)) for query, (question, expires_at) in open_questions.items()}
            while not stopped and len(open_questions) < limits.max_in_flight and pace.wait_s() == 0 and (question := schedule.next()):
                open_questions[question.query.identity] = question, time.monotonic() + limits.timeout_s
                self._ask(question, limits, outcome.tally)
                pace.took()
                if on_asked:
                    on_asked(question)
            if not open_questions and (stopped or schedule.over):
                break
            for response in self._new_responses(outcome.tally, POLL_S):
                question, _ = open_questions.pop(response.identity, (None, 0.0))
                if question:
                    outcome.responses[response.identity] = response
                    outcome.feedback += self.send_feedback([question]) if limits.gives_feedback else 0
                    silent = 0
                    self._settle(schedule, question, on_settled)
            for question in _overdue(open_questions):
                del open_questions[question.query.identity]
                silent += 1
                self._settle(schedule, question, on_settled)
        self.flush()
        outcome.seconds = time.monotonic() - started
        return outcome

    def send_feedback(self, questions: Iterable[Question]) -> int:
        """Send the feedback of questions that are answered. Returns the number of records; `flush` waits for them."""
        given = [feedback for question in questions for feedback in question.feedback]
        for feedback in given:
            self._send(FEEDBACK, feedback, feedback.feedback_id)
        return len(given)

    def flush(self) -> None:
        """Block until the broker has all records. Raises RetryLater if it did not take one, or takes too long."""
        with broker_errors(self._settings, action="take records", use=WRITES):
            self._producer.flush(timeout=FLUSH_S)
        if self._failures:
            first = self._failures[0]
            reason = refusal(self._settings.kafka, WRITES, first) or f"the first: {type(first).__name__}"
            raise RetryLater(f"the broker did not take {len(self._failures)} records; {reason}") from first

    def close(self) -> None:
        self._producer.close(timeout=FLUSH_S)
        self._responses.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, question: Question, limits: AskingLimits, tally: AnswerCounts) -> None:
        query, now = question.query, datetime.now(UTC)
        if limits.deadline_s is not None:
            query = query.model_copy(update={"deadline": now + timedelta(seconds=limits.deadline_s)})
        tally.note_query(query, now)
        self._send(QUERIES, query, query.query_id)

    def _new_responses(self, tally: AnswerCounts, timeout_s: float) -> list[Response]:
        """Answers to this platform's questions. Other answers and unreadable records are ignored."""
        found = []
        for sighting in self._responses.poll(timeout_s):
            response, envelope = sighting.message, sighting.envelope
            if isinstance(response, Response) and envelope and response.identity in tally.asked:
                tally.note_response(response, envelope.time)
                found.append(response)
        return found

    def _settle(self, schedule: AskingSchedule, question: Question, on_settled: Callable[[], None] | None) -> None:
        schedule.done(question)
        if on_settled:
            on_settled()

    def _send(self, topic: Topic, message: Message, id: UUID) -> Any:
        with broker_errors(self._settings, action="take records", use=WRITES):
            return send(self._producer, topic, message, id=id, source=self._source).add_errback(self._failures.append)


def _overdue(open_questions: dict[MessageIdentity, tuple[Question, float]]) -> list[Question]:
    now = time.monotonic()
    return [question for question, expires_at in open_questions.values() if expires_at < now]
