from __future__ import annotations

import pytest

from infra.errors import PoisonMessage
from schemas.interactions import Interaction
from schemas.topics import INTERACTIONS, MAX_MESSAGE_BYTES, OUTCOMES
from streams.app.processor import output
from tests.support.streams_fakes import TRACE, interaction


def test_a_message_is_produced_with_its_key_and_trace() -> None:
    message = interaction("sea")
    record = output(INTERACTIONS, message, id=message.interaction_id, traceparent=TRACE)
    assert (record.topic, record.key, record.partition) == ("interactions", b"acme/alice", None)
    assert dict(record.headers)["ce_id"] == str(message.interaction_id).encode()
    assert dict(record.headers)["traceparent"] == TRACE.encode()


def test_a_message_larger_than_its_topic_allows_is_rejected() -> None:
    class Huge(Interaction, wire="test.huge", version=1):
        def to_bytes(self) -> bytes:
            return b"x" * MAX_MESSAGE_BYTES

    with pytest.raises(PoisonMessage, match="outcomes message would have"):
        output(OUTCOMES, Huge(**interaction("sea").model_dump()), id="1", traceparent=TRACE)
