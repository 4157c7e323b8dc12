from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.errors import CannotContinue, DependencyBlocked, DependencyUnavailable, PoisonMessage, RetryLater
from schemas.drafts import Draft
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import DRAFTS, QUERIES
from tests.support.manual_clock import ManualClock
from tests.support.worker_messages import make_query, make_record
from workers.runtime.handler import Backoff, DegradeReason, Handler, HandlerSpec, Incoming, Outgoing
from workers.runtime.in_flight import Finished, HandlingOutcome, InFlight, TryAgain
from workers.runtime.processor import RecordProcessor

BACKOFF = Backoff(attempts=4, first_s=1.0, longest_s=10.0)


class ErrorsThenDraft:
    """Raises each of `errors` in turn, then answers with a draft of `answer_chars`."""

    def __init__(self, *errors: Exception, answer: str = "a", copies: int = 1) -> None:
        self.errors = list(errors)
        self.answer, self.copies = answer, copies
        self.calls = 0

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        draft = Draft(query=incoming.message, answer=self.answer, base_model="m", base_ms=1.0)
        return [Outgoing(DRAFTS, draft, derive("draft", incoming.message.query_id))] * self.copies


def processor(handler: Handler[Query], clock: ManualClock | None = None, **options: Any) -> RecordProcessor[Query]:
    return RecordProcessor(HandlerSpec("base", QUERIES, handler, backoff=BACKOFF, **options), clock or ManualClock())


async def attempt(processor: RecordProcessor[Query], record: InFlight) -> Finished | TryAgain:
    processor.parse(record)
    return await processor.attempt(record)


async def finish(processor: RecordProcessor[Query], record: InFlight | None = None) -> Finished:
    result = await attempt(processor, record or make_record())
    assert isinstance(result, Finished)
    return result


def reason(finished: Finished) -> tuple[str, str]:
    headers = dict(finished.outputs[0].headers)
    return headers["kafka_dlt-exception-fqcn"].decode(), headers["kafka_dlt-exception-message"].decode()


async def test_an_output_keeps_the_trace_and_names_its_worker() -> None:
    record = make_record()
    finished = await finish(processor(ErrorsThenDraft()), record)
    headers = dict(finished.outputs[0].headers)
    assert headers["traceparent"] == dict(record.consumed.headers)["traceparent"]
    assert headers["ce_source"] == b"/workers/base"
    assert headers["ce_id"] == str(derive("draft", make_query().query_id)).encode()
    assert finished.outputs[0].key == b"t/u"


async def test_handling_a_record_twice_gives_the_same_bytes() -> None:
    first, second = [await finish(processor(ErrorsThenDraft()), make_record()) for _ in range(2)]
    assert first.outputs[0].value == second.outputs[0].value
    assert dict(first.outputs[0].headers)["ce_id"] == dict(second.outputs[0].headers)["ce_id"]


@pytest.mark.parametrize("value", [b"no json", b"{}", b"\xff\xfe", b'{"query_id": 1}'])
async def test_a_malformed_record_is_set_aside_byte_for_byte(value: bytes) -> None:
    handler = ErrorsThenDraft()
    finished = await finish(processor(handler), make_record(value=value, offset=7))
    assert finished.outcome is HandlingOutcome.SET_ASIDE and not finished.our_fault
    assert (finished.outputs[0].topic, finished.outputs[0].value) == ("queries-dlt", value)
    assert dict(finished.outputs[0].headers)["kafka_dlt-original-offset"] == (7).to_bytes(8, "big")
    assert dict(finished.outputs[0].headers)["kafka_dlt-original-consumer-group"] == b"retouch-base"
    assert handler.calls == 0


async def test_poison_is_set_aside_without_another_attempt() -> None:
    handler = ErrorsThenDraft(PoisonMessage("never"))
    finished = await finish(processor(handler), make_record())
    assert finished.outcome is HandlingOutcome.SET_ASIDE and not finished.our_fault
    assert reason(finished)[1] == "never"
    assert handler.calls == 1


async def test_a_bug_of_the_handler_sets_the_record_aside_without_quoting_it() -> None:
    finished = await finish(processor(ErrorsThenDraft(ValueError("what the user wrote"))), make_record())
    kind, text = reason(finished)
    assert finished.our_fault
    assert kind.endswith("HandlerFailed")
    assert text.startswith("ValueError at test_processor.py:")
    assert "user wrote" not in text


async def test_cannot_continue_is_not_caught() -> None:
    with pytest.raises(CannotContinue):
        await finish(processor(ErrorsThenDraft(CannotContinue("stop"))), make_record())


async def test_a_record_is_set_aside_if_its_output_is_too_large_for_the_topic() -> None:
    query = make_query(text="é" * 32_000)
    handler = ErrorsThenDraft(answer="\x01" * 32_000)  # six bytes each in JSON
    small = await finish(processor(handler), make_record(query))
    assert small.outcome is HandlingOutcome.PRODUCED
    finished = await finish(processor(_too_large), make_record(query))
    assert finished.outcome is HandlingOutcome.SET_ASIDE
    assert "bytes" in reason(finished)[1]


async def _too_large(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    class TooLargeDraft(Draft, wire="test.huge", version=1):
        pad: str

    huge = TooLargeDraft(query=incoming.message, answer="", base_model="m", base_ms=0.0, pad="x" * 1_100_000)
    return [Outgoing(DRAFTS, huge, "id")]


@pytest.mark.parametrize(("failures", "least_s"), [(0, 1.0), (1, 2.0), (2, 4.0)])
async def test_the_pause_after_retry_later_grows_with_the_failures(failures: int, least_s: float) -> None:
    result = await attempt(processor(ErrorsThenDraft(RetryLater("away", after_s=0.0))), make_record(failures=failures))
    assert isinstance(result, TryAgain)
    assert least_s <= result.pause_s <= least_s * 1.25


@pytest.mark.parametrize("error", [DependencyUnavailable, DependencyBlocked])
async def test_an_attempt_does_not_count_if_the_dependency_fails_for_every_record(error: type[DependencyUnavailable]) -> None:
    blocked = processor(ErrorsThenDraft(error("401", after_s=3.0, cause="wrong_key")), deadline=deadline, degrade=Degrade())
    result = await blocked.attempt(make_record(failures=BACKOFF.attempts - 1))
    assert isinstance(result, TryAgain)
    assert (result.counts, result.cause) == (False, "wrong_key")


async def test_a_blocked_dependency_does_not_hold_a_record_beyond_its_deadline() -> None:
    clock, degrade = ManualClock(), Degrade()
    blocked = ErrorsThenDraft(DependencyBlocked("401", after_s=3.0, cause="wrong_key"))
    finished = await finish(processor(blocked, clock, deadline=deadline, degrade=degrade), due(clock, 2.0))
    assert (finished.outcome, degrade.causes) == (HandlingOutcome.DEGRADED, ["wrong_key"])


@pytest.mark.parametrize(("left_s", "expected"), [(3600.0, "endpoint"), (-1.0, "timeout")])
async def test_the_degraded_output_gets_the_cause_of_the_last_failure(left_s: float, expected: str) -> None:
    clock, degrade = ManualClock(), Degrade()
    record = dataclasses.replace(due(clock, left_s, BACKOFF.attempts - 1), last_failure="timeout")
    await finish(processor(ErrorsThenDraft(RetryLater("away", reason="endpoint")), clock, deadline=deadline, degrade=degrade), record)
    assert degrade.causes == [expected]


async def test_a_record_whose_last_attempt_fails_is_set_aside() -> None:
    finished = await finish(processor(ErrorsThenDraft(RetryLater("away"))), make_record(failures=BACKOFF.attempts - 1))
    assert finished.outcome is HandlingOutcome.SET_ASIDE and finished.our_fault
    assert reason(finished)[0] == "infra.errors.RetryLater"


async def test_a_record_without_key_and_value_can_be_set_aside() -> None:
    record = dataclasses.replace(make_record(), consumed=dataclasses.replace(make_record().consumed, key=None, value=None))
    finished = await finish(processor(ErrorsThenDraft()), record)
    assert (finished.outputs[0].key, finished.outputs[0].value) == (None, b"")


# Deadlines, and the degraded output


class Degrade:
    """Returns a draft whose answer is the reason."""

    def __init__(self) -> None:
        self.reasons: list[DegradeReason] = []
        self.causes: list[str | None] = []

    def __call__(self, incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
        self.reasons.append(reason)
        self.causes.append(incoming.last_failure)
        draft = Draft(query=incoming.message, answer=reason, base_model="m", base_ms=0.0)
        return [Outgoing(DRAFTS, draft, derive("draft", incoming.message.query_id))]


def due(clock: ManualClock, left_s: float, failures: int = 0) -> InFlight:
    return make_record(make_query(deadline=clock.now() + timedelta(seconds=left_s)), failures=failures)


def deadline(query: Query) -> datetime | None:
    return query.deadline


@pytest.mark.parametrize("left_s", [0.0, -1.0, -1e9])
async def test_a_record_past_its_deadline_is_degraded_without_an_attempt(left_s: float) -> None:
    clock, handler, degrade = ManualClock(), ErrorsThenDraft(), Degrade()
    finished = await finish(processor(handler, clock, deadline=deadline, degrade=degrade), due(clock, left_s))
    assert (finished.outcome, finished.our_fault, degrade.reasons, handler.calls) == (HandlingOutcome.EXPIRED, False, [DegradeReason.EXPIRED], 0)
    assert Draft.from_bytes(finished.outputs[0].value or b"").answer == "expired"


async def test_a_handler_is_cancelled_at_the_deadline() -> None:
    clock, degrade, cleaned = ManualClock(), Degrade(), list[str]()

    async def slow(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append("up")
        raise AssertionError

    finished = await finish(processor(slow, clock, deadline=deadline, degrade=degrade), due(clock, 0.02))
    assert (finished.outcome, degrade.reasons, cleaned) == (HandlingOutcome.EXPIRED, [DegradeReason.EXPIRED], ["up"])


async def test_a_handlers_own_timeout_before_its_deadline_is_a_bug() -> None:
    clock = ManualClock()
    finished = await finish(processor(ErrorsThenDraft(TimeoutError()), clock, deadline=deadline, degrade=Degrade()), due(clock, 60))
    assert finished.outcome is HandlingOutcome.SET_ASIDE and finished.our_fault


@pytest.mark.parametrize(("failures", "left_s"), [(BACKOFF.attempts - 1, 3600.0), (0, 4.0)])
async def test_a_record_without_attempts_or_time_left_is_degraded(failures: int, left_s: float) -> None:
    clock, degrade = ManualClock(), Degrade()
    unavailable = ErrorsThenDraft(RetryLater("away", after_s=4.0))
    finished = await finish(processor(unavailable, clock, deadline=deadline, degrade=degrade), due(clock, left_s, failures))
    assert (finished.outcome, finished.our_fault, degrade.reasons) == (HandlingOutcome.DEGRADED, False, [DegradeReason.EXHAUSTED])


async def test_poison_is_set_aside_although_it_could_be_degraded() -> None:
    degrade = Degrade()
    finished = await finish(processor(ErrorsThenDraft(PoisonMessage("never")), degrade=degrade))
    assert (finished.outcome, degrade.reasons) == (HandlingOutcome.SET_ASIDE, [])


def _failing_deadline(query: Query) -> datetime | None:
    raise OverflowError("date value out of range")


def _failing_degrade(incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
    raise KeyError("what the user wrote")


async def _failing_output(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    return ["no outgoing"]  # type: ignore[list-item]


@pytest.mark.parametrize(
    "broken",
    [
        processor(ErrorsThenDraft(), deadline=_failing_deadline, degrade=_failing_degrade),
        processor(ErrorsThenDraft(RetryLater("away")), degrade=_failing_degrade, deadline=lambda query: datetime.min.replace(tzinfo=UTC)),
        processor(_failing_output),
    ],
    ids=["deadline", "degrade", "output"],
)
async def test_a_bug_around_the_handler_sets_the_record_aside(broken: RecordProcessor[Query]) -> None:
    finished = await finish(broken)
    assert finished.outcome is HandlingOutcome.SET_ASIDE and finished.our_fault
    assert "user wrote" not in reason(finished)[1]


def test_a_handler_with_a_deadline_needs_degrade() -> None:
    with pytest.raises(ValueError, match="needs degrade"):
        HandlerSpec("base", QUERIES, ErrorsThenDraft(), deadline)
