from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from infra.errors import CannotContinue, PoisonMessage, RetryLater
from schemas.drafts import Draft
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import DRAFTS, QUERIES
from tests.unit.workers.made import make_delivery, make_query
from workers.runtime.clock import HandClock, settle
from workers.runtime.delivery import Finished
from workers.runtime.handler import Incoming, Outgoing
from workers.runtime.processor import Processor
from workers.runtime.retry import Backoff

BACKOFF = Backoff(attempts=4, first_s=1.0, longest_s=10.0)


class Scripted:
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


def processor(handler: Scripted, clock: HandClock | None = None, concurrency: int = 4) -> Processor[Query]:
    return Processor("base", QUERIES, handler, concurrency, BACKOFF, clock or HandClock())


def reason(finished: Finished) -> tuple[str, str]:
    headers = dict(finished.outputs[0].headers)
    return headers["kafka_dlt-exception-fqcn"].decode(), headers["kafka_dlt-exception-message"].decode()


async def test_an_output_keeps_the_trace_and_names_its_worker() -> None:
    delivery = make_delivery()
    finished = await processor(Scripted()).process(delivery)
    headers = dict(finished.outputs[0].headers)
    assert headers["traceparent"] == dict(delivery.headers)["traceparent"]
    assert headers["ce_source"] == b"/workers/base"
    assert headers["ce_id"] == str(derive("draft", make_query().query_id)).encode()
    assert finished.outputs[0].key == b"t/u"


async def test_handling_a_record_twice_gives_the_same_bytes() -> None:
    first, second = [await processor(Scripted()).process(make_delivery()) for _ in range(2)]
    assert first.outputs[0].value == second.outputs[0].value
    assert dict(first.outputs[0].headers)["ce_id"] == dict(second.outputs[0].headers)["ce_id"]


@pytest.mark.parametrize("value", [b"no json", b"{}", b"\xff\xfe", b'{"query_id": 1}'])
async def test_a_malformed_record_is_set_aside_byte_for_byte(value: bytes) -> None:
    handler = Scripted()
    finished = await processor(handler).process(make_delivery(value=value, offset=7))
    assert finished.set_aside and not finished.our_fault
    assert (finished.outputs[0].topic, finished.outputs[0].value) == ("queries-dlt", value)
    assert dict(finished.outputs[0].headers)["kafka_dlt-original-offset"] == (7).to_bytes(8, "big")
    assert handler.calls == 0


async def test_poison_is_set_aside_without_another_try() -> None:
    handler = Scripted(PoisonMessage("never"))
    finished = await processor(handler).process(make_delivery())
    assert finished.set_aside and not finished.our_fault
    assert reason(finished)[1] == "never"
    assert handler.calls == 1


async def test_a_bug_in_a_handler_sets_the_record_aside_without_quoting_it() -> None:
    finished = await processor(Scripted(ValueError("what the user wrote"))).process(make_delivery())
    kind, text = reason(finished)
    assert finished.our_fault
    assert kind.endswith("HandlerFailed")
    assert text.startswith("ValueError at test_processor.py:")
    assert "user wrote" not in text


async def test_cannot_continue_is_not_caught() -> None:
    with pytest.raises(CannotContinue):
        await processor(Scripted(CannotContinue("stop"))).process(make_delivery())


async def test_an_output_too_large_for_its_topic_sets_its_source_aside() -> None:
    query = make_query(text="é" * 32_000)
    handler = Scripted(answer="\x01" * 32_000)  # six bytes each in JSON
    small = await processor(handler).process(make_delivery(query))
    assert not small.set_aside
    monstrous = Processor("base", QUERIES, _monstrous, 4, BACKOFF, HandClock())
    finished = await monstrous.process(make_delivery(query))
    assert finished.set_aside
    assert "bytes" in reason(finished)[1]


async def _monstrous(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    class Huge(Draft, wire="test.huge", version=1):
        pad: str

    huge = Huge(query=incoming.message, answer="", base_model="m", base_ms=0.0, pad="x" * 1_100_000)
    return [Outgoing(DRAFTS, huge, "id")]


async def test_retry_later_pauses_longer_each_time_and_then_succeeds() -> None:
    clock = HandClock()
    handler = Scripted(*(RetryLater("away", after_s=0.0) for _ in range(3)))
    task = asyncio.ensure_future(processor(handler, clock).process(make_delivery()))
    pauses = []
    for _ in range(3):
        await settle()
        pause_s = clock.next_wake_s()
        assert pause_s is not None
        pauses.append(pause_s)
        await clock.advance(pause_s)
    finished = await asyncio.wait_for(task, 5)
    assert not finished.set_aside
    assert finished.retries == 3
    for pause_s, least_s in zip(pauses, (1.0, 2.0, 4.0), strict=True):
        assert least_s <= pause_s <= least_s * 1.25


async def test_retry_later_ends_as_a_dead_letter() -> None:
    clock = HandClock()
    handler = Scripted(*(RetryLater("away") for _ in range(10)))
    task = asyncio.ensure_future(processor(handler, clock).process(make_delivery()))
    for _ in range(4):
        await settle()
        await clock.advance(20)
    finished = await asyncio.wait_for(task, 5)
    assert finished.set_aside and finished.our_fault
    assert handler.calls == BACKOFF.attempts
    assert reason(finished)[0] == "infra.errors.RetryLater"


async def test_a_record_waiting_for_its_next_try_holds_up_no_other() -> None:
    clock = HandClock()
    handler = Scripted(RetryLater("away", after_s=9.0))
    shared = processor(handler, clock, concurrency=1)
    waiting = asyncio.ensure_future(shared.process(make_delivery(offset=0)))
    await settle()
    other = await asyncio.wait_for(shared.process(make_delivery(offset=1)), 5)
    assert not other.set_aside
    assert not waiting.done()
    await clock.advance(15)
    assert not (await asyncio.wait_for(waiting, 5)).set_aside


async def test_a_record_of_nothing_at_all_can_be_set_aside() -> None:
    delivery = dataclasses.replace(make_delivery(), key=None, value=None)
    finished = await processor(Scripted()).process(delivery)
    assert (finished.outputs[0].key, finished.outputs[0].value) == (None, b"")
