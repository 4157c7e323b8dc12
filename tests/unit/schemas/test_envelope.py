"""Envelopes: CloudEvents in binary and structured mode, and trace context."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from schemas.envelope import Envelope, envelope_headers, header_values, new_traceparent, read_envelope, read_message
from schemas.erasures import ErasureRequest
from schemas.messages import MAX_VALUE_BYTES, Malformed
from schemas.queries import Query

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
MESSAGE = ErasureRequest(request_id=uuid4(), tenant="acme", user="ada", requested_at=NOW)


def headers(**changes: bytes | None) -> list[tuple[str, bytes]]:
    """A sealed message's headers with some replaced, or left out where None."""
    sealed = dict(envelope_headers(MESSAGE, id=MESSAGE.request_id, source="/tests", now=NOW)) | {
        name.replace("content_type", "content-type"): value for name, value in changes.items()
    }
    return [(name, value) for name, value in sealed.items() if value is not None]


def test_written_headers_can_be_read() -> None:
    message, envelope = read_message(ErasureRequest, headers(), MESSAGE.to_bytes())
    assert message == MESSAGE
    assert (envelope.id, envelope.source, envelope.type, envelope.time) == (str(MESSAGE.request_id), "/tests", "retouch.erasure-request.v1", NOW)


def test_the_headers_are_those_of_the_specifications() -> None:
    assert [name for name, _ in headers()] == ["ce_id", "ce_source", "ce_type", "ce_specversion", "ce_time", "content-type", "traceparent"]
    assert dict(headers())["ce_specversion"] == b"1.0"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ce_id": None}, "ce_id"),
        ({"ce_type": None}, "ce_type"),
        ({"ce_source": b"\xff"}, "UTF-8"),
        ({"ce_type": b"retouch.erasure-request.v2"}, "unknown ce_type"),
        ({"ce_time": b"yesterday"}, "RFC 3339"),
        ({"ce_time": b"2026-11-21T09:00:00"}, "with an offset"),
    ],
)
def test_headers_that_are_not_ours_are_refused(changes: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read_envelope(headers(**changes))


def test_the_time_is_optional() -> None:
    before = datetime.now(UTC)
    assert before <= read_envelope(headers(ce_time=None)).time <= datetime.now(UTC)


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def structured(content_type: str = "application/cloudevents+json; charset=UTF-8", **changes: object) -> tuple[list[tuple[str, bytes]], bytes]:
    """The headers and the value of a record in structured mode, with some attributes replaced, or left out where None."""
    event = {"specversion": "1.0", "id": "7", "source": "/shop", "type": MESSAGE.ce_type(), "time": NOW.isoformat(), "traceparent": TRACE}
    found = {name: value for name, value in ({**event, "data": json.loads(MESSAGE.to_bytes())} | changes).items() if value is not None}
    return [("content-type", content_type.encode())], json.dumps(found).encode()


@pytest.mark.parametrize("data", [{}, {"data": None, "data_base64": b64encode(MESSAGE.to_bytes()).decode()}], ids=["json", "base64"])
def test_a_structured_event_is_read_like_a_binary_one(data: dict[str, Any]) -> None:
    message, envelope = read_message(ErasureRequest, *structured(**data))
    assert message == MESSAGE
    assert envelope == Envelope("7", "/shop", MESSAGE.ce_type(), NOW, TRACE)


@pytest.mark.parametrize("sent", [[], [("content-type", b"application/json")]], ids=["no headers", "the content type of the data"])
def test_a_structured_event_without_its_content_type_is_read(sent: list[tuple[str, bytes]]) -> None:
    _, value = structured()
    assert read_message(ErasureRequest, sent, value) == (MESSAGE, Envelope("7", "/shop", MESSAGE.ce_type(), NOW, TRACE))


def test_with_attributes_in_headers_the_value_is_the_message() -> None:
    value = json.dumps({**json.loads(MESSAGE.to_bytes()), "specversion": "1.0"}).encode()
    assert read_message(ErasureRequest, headers(), value)[0] == MESSAGE
    with pytest.raises(Malformed, match="header ce_id is missing"):
        read_message(ErasureRequest, headers(ce_id=None), value)


def test_an_optional_attribute_may_be_missing_in_structured_mode() -> None:
    sent, value = structured(time=None, traceparent=None)
    envelope = read_envelope([*sent, ("traceparent", TRACE.encode())], value)
    assert envelope.traceparent == TRACE and envelope.time.tzinfo


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "attribute id is missing"),
        ({"source": 7}, "attribute source is no text"),
        ({"type": "com.example.event"}, r"expected retouch\.erasure-request\.v1, got 'com\.example\.event'"),
        ({"time": "yesterday"}, "attribute time is not an RFC 3339"),
        ({"data": None}, "has no value"),
        ({"data": [1]}, "value: model"),
        ({"data": {"tenant": "\ud83d"}}, "no JSON"),
        ({"data": None, "data_base64": "%%"}, "no base64"),
        ({"data": None, "data_base64": 7}, "no base64|value"),
        ({"content_type": "application/cloudevents-batch+json"}, "form of CloudEvents that is not read"),
    ],
)
def test_a_structured_event_that_cannot_be_read_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read_message(ErasureRequest, *structured(**changes))


@pytest.mark.parametrize("value", [None, b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (MAX_VALUE_BYTES + 1)])
def test_a_value_that_is_no_structured_event_is_refused(value: bytes | None) -> None:
    with pytest.raises(Malformed, match="value"):
        read_message(ErasureRequest, structured()[0], value)


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_type"])
def test_a_header_whose_value_is_null_is_missing(name: str) -> None:
    with pytest.raises(Malformed, match=name):
        read_envelope([(each, None if each == name else value) for each, value in headers()])


def test_a_null_traceparent_starts_a_new_trace() -> None:
    without = [header for header in headers() if header[0] != "traceparent"]
    assert read_envelope([*without, ("traceparent", None), ("other", None)]).traceparent.startswith("00-")


def test_a_record_without_headers_is_refused() -> None:
    with pytest.raises(Malformed):
        read_envelope([])


def test_another_topics_message_is_refused() -> None:
    with pytest.raises(Malformed, match=r"expected retouch\.query\.v1, got 'retouch\.erasure-request\.v1'"):
        read_message(Query, headers(), MESSAGE.to_bytes())


def test_a_trace_continues_and_an_invalid_one_is_replaced() -> None:
    trace = new_traceparent()
    assert read_envelope(headers(traceparent=trace.encode())).traceparent == trace
    fresh = read_envelope(headers(traceparent=b"00-zz"))
    assert fresh.traceparent != "00-zz" and len(fresh.traceparent) == len(trace)


@pytest.mark.parametrize("change", [str.upper, str.title, lambda name: name.replace("ce_", "Ce_")])
def test_header_names_have_no_case(change: Callable[[str], str]) -> None:
    message, envelope = read_message(ErasureRequest, [(change(name), value) for name, value in headers()], MESSAGE.to_bytes())
    assert (message, envelope.id, envelope.source) == (MESSAGE, str(MESSAGE.request_id), "/tests")


def test_of_repeated_headers_the_last_one_with_a_value_counts() -> None:
    repeated = [("CE_ID", b"first"), *headers(), ("Ce_Id", b"last"), ("ce_id", None)]
    assert read_envelope(repeated).id == "last"
    assert header_values(repeated)["ce_id"] == b"last"


def test_no_headers_are_read_as_none() -> None:
    assert header_values(None) == header_values([("ce_id", None)]) == {}
