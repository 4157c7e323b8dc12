from __future__ import annotations

from uuid import UUID

import pytest

from infra.errors import PoisonMessage
from schemas.interactions import Interaction
from schemas.topics import INTERACTIONS, MAX_MESSAGE_BYTES, OUTCOMES
from streams.app.processor import FRAMING_BYTES, output
from tests.support.streams_fakes import TRACE, interaction


def test_a_message_is_produced_with_its_key_and_trace() -> None:
    message = interaction("sea")
    record = output(INTERACTIONS, message, id=message.interaction_id, traceparent=TRACE)
    assert (record.topic, record.key, record.partition) == ("interactions", b"acme/alice", None)
    assert dict(record.headers)["ce_id"] == str(message.interaction_id).encode()
    assert dict(record.headers)["traceparent"] == TRACE.encode()


class Sized(Interaction, wire="test.sized", version=1):
    """A message of exactly `interaction_id` bytes: the id's number is its size."""

    def to_bytes(self) -> bytes:
        return b"x" * self.interaction_id.int


def sized(size: int) -> Sized:
    return Sized(**interaction("sea").model_dump() | {"interaction_id": UUID(int=size)})


def test_a_message_within_the_limit_of_its_topic_is_produced() -> None:
    limit = MAX_MESSAGE_BYTES - FRAMING_BYTES
    assert len(output(OUTCOMES, sized(limit), id="1", traceparent=TRACE).value or b"") == limit


def test_a_message_larger_than_its_topic_allows_is_rejected() -> None:
    with pytest.raises(PoisonMessage, match="outcomes message would have"):
        output(OUTCOMES, sized(MAX_MESSAGE_BYTES - FRAMING_BYTES + 1), id="1", traceparent=TRACE)
