from __future__ import annotations

from dataclasses import replace

import pytest

from infra.errors import PoisonMessage
from schemas.interactions import Interaction
from schemas.messages import Malformed
from schemas.topics import INTERACTIONS, MAX_MESSAGE_BYTES, OUTCOMES
from streams.app.records import ConsumedRecord, dead_letter_for, output
from tests.support.streams_fakes import TRACE, consumed_record, feedback, interaction, query

GOOD = consumed_record("interactions", interaction("sea"), partition=2, offset=9)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (replace(GOOD, value=b"not json"), "json_invalid"),
        (replace(GOOD, value=b"{}"), "missing"),
        (replace(GOOD, value=b"\xff\xfe"), "json_invalid"),
        (replace(GOOD, value=None), "no value"),
        (replace(GOOD, headers=()), "not a CloudEvents record"),
        (replace(GOOD, headers=(*GOOD.headers, ("ce_type", b"retouch.unknown.v9"))), "unknown ce_type"),
        (replace(GOOD, headers=consumed_record("feedback", feedback(query())).headers), "expected retouch.interaction.v1"),
        (replace(GOOD, value=GOOD.value and GOOD.value.replace(b'"about sea"', b'"' + b"x" * 40_000 + b'"')), "string_too_long"),
    ],
)
def test_an_unusable_record_is_malformed_and_its_reason_holds_no_text(bad: ConsumedRecord, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        bad.read(Interaction)
    assert "about sea" not in str(caught.value) and "xxx" not in str(caught.value)


def test_a_dead_letter_is_the_same_bytes_plus_origin_headers() -> None:
    bad = replace(GOOD, key=None, value=b"\x00\xff")
    dead_letter = dead_letter_for(bad, Malformed("why"))
    assert (dead_letter.topic, dead_letter.key, dead_letter.value) == ("interactions-dlt", None, b"\x00\xff")
    assert tuple(dead_letter.headers[: len(bad.headers)]) == bad.headers
    added = dict(dead_letter.headers[len(bad.headers) :])
    assert added["kafka_dlt-original-topic"] == b"interactions"
    assert int.from_bytes(added["kafka_dlt-original-offset"]) == 9
    assert added["kafka_dlt-exception-message"] == b"why"


def test_a_record_without_key_and_value_can_be_dead_lettered() -> None:
    dead_letter = dead_letter_for(replace(GOOD, key=None, value=None), Malformed("why"))
    assert (dead_letter.key, dead_letter.value) == (None, b"")


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
