"""The envelope of a record: CloudEvents 1.0 for Kafka, and W3C Trace Context. Written in binary mode, read in binary and structured mode.

- Binary: the message is the record's value, and the event's attributes are headers: `ce_id`, `ce_source`, `ce_type`, `ce_specversion`, `ce_time`.
- Structured: the value is one JSON object with the attributes, and the message under `data`, or as base64 under `data_base64`. `content-type` begins with
  `application/cloudevents+json`, or it is another or missing, no attribute is a header, and the value has `specversion`: version 1 of the CloudEvents SDK for
  Python writes the content type of the data there.

`traceparent` is a header, or in structured mode an attribute. `time` is optional, as in the specification. By hand, because the CloudEvents SDK parses each
message into Python objects, which pydantic would parse again.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from pydantic_core import from_json, to_json

from schemas.messages import Fingerprint, Malformed, Message, check_size, message_type
from schemas.times import parse_time

Headers = Sequence[tuple[str, bytes]]
M = TypeVar("M", bound=Message)

CONTENT_TYPE = "application/json"
#: Of a record in structured mode.
STRUCTURED = "application/cloudevents+json"
#: Attributes that every event has.
REQUIRED = ("id", "source", "type")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Envelope:
    """The event's attributes. `time` is the producer's wall clock; if the producer does not say it, the time of reading."""

    id: str
    source: str
    type: str
    time: datetime
    traceparent: str


def envelope_headers(message: Message, *, id: object, source: str, traceparent: str | None = None, now: datetime | None = None) -> list[tuple[str, bytes]]:
    """The headers of `message`. `id` is the message's own derived id; `source` names the producer, such as `/workers/base`."""
    time = (now or datetime.now(UTC)).isoformat()
    fields = {
        "ce_id": str(id),
        "ce_source": source,
        "ce_type": message.ce_type(),
        "ce_specversion": "1.0",
        "ce_time": time,
        "content-type": CONTENT_TYPE,
        "traceparent": traceparent or new_traceparent(),
    }
    return [(name, value.encode()) for name, value in fields.items()]


def header_values(headers: Iterable[tuple[str, bytes | None]] | None) -> dict[str, bytes]:
    """A record's headers by lower-case name. Every reader of headers uses it.

    Letter case of names does not matter: producers write `CE_ID` too. Of several headers with one name the last counts, as for Kafka's `lastHeader`. A header
    whose value is null counts as missing.
    """
    return {name.lower(): value for name, value in headers or () if value is not None}


def read_envelope(headers: Iterable[tuple[str, bytes | None]] | None, value: bytes | None = None) -> Envelope:
    """The envelope of a record, in either mode; in binary mode `value` is not needed. Raises Malformed if it is no CloudEvents record of a declared type."""
    envelope, _ = _read(headers, value)
    message_type(envelope.type)
    return envelope


def read_message(expected: type[M], headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> tuple[M, Envelope]:
    """Parse one record of a topic with messages of type `expected`, in either mode. Raises Malformed for other types, also for a newer version."""
    envelope, content = _read(headers, value)
    if envelope.type != expected.ce_type():
        raise Malformed(f"expected {expected.ce_type()}, got {envelope.type[:80]!r}")
    return expected.from_bytes(content), envelope


def _read(headers: Iterable[tuple[str, bytes | None]] | None, value: bytes | None) -> tuple[Envelope, bytes | None]:
    """The envelope, and the message's bytes."""
    values = header_values(headers)
    content_type = values.get("content-type", b"").decode(errors="replace").strip().lower()
    if content_type.startswith(STRUCTURED):
        return _structured(values, value)
    if content_type.startswith("application/cloudevents"):
        raise Malformed(f"the content-type is a form of CloudEvents that is not read; {STRUCTURED} is")
    if value is not None and b'"specversion"' in value and not any(f"ce_{name}" in values for name in REQUIRED):
        return _structured(values, value)
    attributes = {name: _text(values, f"ce_{name}") for name in ("id", "source", "type", "time") if name != "time" or "ce_time" in values}
    return _envelope(attributes, values, "header ce_"), value


def _structured(values: Mapping[str, bytes], value: bytes | None) -> tuple[Envelope, bytes | None]:
    if value is None:
        raise Malformed("a structured CloudEvents record has no value")
    check_size(value)
    try:
        event = from_json(value, allow_inf_nan=False)
    except ValueError:
        raise Malformed("a structured CloudEvents record, and its value is no JSON") from None
    if not isinstance(event, dict):
        raise Malformed("a structured CloudEvents record, and its value is no JSON object")
    attributes = {name: event[name] for name in ("id", "source", "type", "time", "traceparent") if event.get(name) is not None}
    if wrong := [name for name, found in attributes.items() if not isinstance(found, str)]:
        raise Malformed(f"attribute {wrong[0]} is no text")
    return _envelope(attributes, values, "attribute "), _data(event)


def _data(event: Mapping[str, object]) -> bytes | None:
    """The message's bytes. None without data: the specification calls that a tombstone."""
    if (encoded := event.get("data_base64")) is None:
        return None if event.get("data") is None else to_json(event["data"])
    try:
        return b64decode(str(encoded), validate=True)
    except ValueError:
        raise Malformed("attribute data_base64 is no base64") from None


def _envelope(attributes: Mapping[str, str], headers: Mapping[str, bytes], place: str) -> Envelope:
    """`place` is what comes before an attribute's name in an error."""
    if missing := [name for name in REQUIRED if name not in attributes]:
        raise Malformed(f"not a CloudEvents record: {place}{missing[0]} is missing")
    try:
        time = parse_time(attributes["time"]) if "time" in attributes else datetime.now(UTC)
    except ValueError:
        raise Malformed(f"{place}time is not an RFC 3339 time with an offset") from None
    traceparent = attributes.get("traceparent") or headers.get("traceparent", b"").decode(errors="replace")
    return Envelope(attributes["id"], attributes["source"], attributes["type"], time, valid_traceparent(traceparent))


def _text(values: Mapping[str, bytes], name: str) -> str:
    if name not in values:
        raise Malformed(f"not a CloudEvents record: header {name} is missing")
    try:
        return values[name].decode()
    except UnicodeDecodeError:
        raise Malformed(f"header {name} is not UTF-8") from None


def read_fingerprint(expected: type[Message], headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> Fingerprint | None:
    """The fingerprint of a record's message. None for an unreadable record, and for messages without an own id: neither is ever a repeat."""
    try:
        return read_message(expected, headers, value)[0].fingerprint()
    except Malformed:
        return None


def valid_traceparent(text: str) -> str:
    """`text` if it is a W3C trace context, else a new one."""
    return text if _TRACEPARENT.fullmatch(text) else new_traceparent()


def new_traceparent() -> str:
    """A fresh, sampled W3C trace context."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
