from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, TopicAuthorizationFailedError
from faust.exceptions import ProducerSendError
from faust.types import TP

from infra.errors import CannotContinue, RetryLater
from infra.kafka.forwarding import Forwarder
from infra.kafka.names import KafkaNames
from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from infra.telemetry.metrics import STREAMS_RECORDS, RetryReason
from schemas.dead_letters import dead_letter
from schemas.messages import IdConflict, Malformed
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import INTERACTIONS
from streams.app.app import consumed_record as app_record
from streams.app.app import count_acknowledged, deliver, make_app, retry_until_done
from streams.app.member_index import MemberIndex
from streams.app.processor import GROUP
from tests.support.streams_fakes import consumed_record, interaction

NAMES = KafkaNames(KafkaSettings())


async def test_an_attempt_is_retried_until_it_succeeds() -> None:
    left = [RetryLater("away"), RetryLater("away")]

    async def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    assert await retry_until_done(attempt, "test", RetryReason.OTHER) == "done"


async def test_cannot_continue_is_not_retried() -> None:
    async def attempt() -> None:
        raise CannotContinue("broken")

    with pytest.raises(CannotContinue):
        await retry_until_done(attempt, "test", RetryReason.OTHER)


class RefusingProducer:
    """Its broker answers each record with this error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def send(self, *record: object) -> asyncio.Future[None]:
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_exception(self._error)
        return sent


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [
        (MessageSizeTooLargeError(), CannotContinue, "MessageSizeTooLargeError: compare max.message.bytes"),
        (TopicAuthorizationFailedError("drafts"), CannotContinue, "User:ANONYMOUS lacks WRITE on topic drafts; `retouch topics acls`"),
        (ProducerSendError(f"Error while sending: {TopicAuthorizationFailedError('drafts')!r}"), CannotContinue, "lacks WRITE on topic drafts"),
        (KafkaTimeoutError(), RetryLater, "KafkaTimeoutError"),
    ],
    ids=["size", "right", "right, at once", "time"],
)
async def test_a_permanent_error_is_not_retried(error: Exception, raised: type[Exception], text: str) -> None:
    app = SimpleNamespace(producer=RefusingProducer(error), transport=SimpleNamespace(names=NAMES, kafka=KafkaSettings()), conf=SimpleNamespace(id=GROUP))
    with pytest.raises(raised, match=text):
        await deliver(app, [ProducedRecord("contexts", b"k", b"v")])


async def test_faust_keeps_no_statistics_of_single_events() -> None:
    settings = Settings(kafka={"bootstrap_servers": "127.0.0.1:9"})
    monitor = make_app(settings, MemberIndex.of(settings, is_embedded=True)).monitor
    place, message, stream = TP(INTERACTIONS.name, 0), SimpleNamespace(), SimpleNamespace(task_owner=None)
    monitor.on_message_in(place, 7, message)
    state = monitor.on_stream_event_in(place, 7, stream, SimpleNamespace(message=message))
    monitor.on_stream_event_out(place, 7, stream, SimpleNamespace(message=message), state)
    monitor.on_message_out(place, 7, message)
    assert (monitor.messages_received_total, monitor.events_total, list(monitor.events_runtime), vars(message)) == (0, 0, [], {})


def test_acknowledged_records_are_counted_by_outcome() -> None:
    good, bad, other, misplaced = (consumed_record("interactions", interaction("sea"), offset=offset) for offset in (0, 1, 2, 3))
    copy = Forwarder(lambda topic: 4).forward(misplaced, b"acme/alice")
    produced = [dead_letter(bad, GROUP, Malformed("why")), dead_letter(other, GROUP, IdConflict(good.source)), copy]
    count_acknowledged("counted", [good, bad, other, misplaced], produced)
    counts = {dict(labels)["outcome"]: count for labels, count in STREAMS_RECORDS.values().items() if dict(labels)["processor"] == "counted"}
    assert counts == {"done": 1, "set_aside": 1, "conflict": 1, "forwarded": 1}


def test_any_time_of_a_record_fits_into_a_dead_letter() -> None:
    message = {"topic": "drafts", "partition": 1, "offset": 2, "key": None, "value": b"v", "headers": []}
    for seconds, timestamp_ms in ((None, -1), (-1e-3, -1), (0.0, 0), ((2**63 - 1) / 1000, 2**63 - 1)):
        read = app_record(NAMES, SimpleNamespace(timestamp=seconds, **message))
        assert read.timestamp_ms == timestamp_ms
        assert dead_letter(read, GROUP, Malformed("why")).headers


def test_a_null_header_stays_null() -> None:
    """For all readers it counts as missing; an empty one would hide an earlier header of its name."""
    read = app_record(NAMES, SimpleNamespace(topic="drafts", partition=1, offset=2, timestamp=3.5, key=None, value=b"v", headers=[("a", None), ("b", b"")]))
    assert read == ConsumedRecord("drafts", 1, 2, 3500, None, b"v", (("a", None), ("b", b"")))
