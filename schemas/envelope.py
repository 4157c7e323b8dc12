"""The headers of a record: CloudEvents 1.0 for Kafka in binary mode, and W3C Trace Context.

The names come from the two specifications: `ce_id`, `ce_source`, `ce_type`, `ce_specversion`, `ce_time`, `content-type`, `traceparent`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from schemas.messages import Fingerprint, Malformed, Message, message_type
from schemas.times import parse_time

Headers = Sequence[tuple[str, bytes]]
M = TypeVar("M", bound=Message)

CONTENT_TYPE = "application/json"
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Envelope:
    """The content of a record's headers. `time` is the producer's wall clock."""

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


def read_envelope(headers: Iterable[tuple[str, bytes | None]] | None) -> Envelope:
    """Parse the headers of a record. Raises Malformed if they are not CloudEvents of a declared type."""
    values = header_values(headers)
    id, source, type, at = (_text(values, name) for name in ("ce_id", "ce_source", "ce_type", "ce_time"))
    message_type(type)
    try:
        time = parse_time(at)
    except ValueError:
        raise Malformed("header ce_time is not an RFC 3339 time with an offset") from None
    traceparent = values.get("traceparent", b"").decode(errors="replace")
    is_valid = _TRACEPARENT.fullmatch(traceparent)
    return Envelope(id, source, type, time, traceparent if is_valid else new_traceparent())


def _text(values: Mapping[str, bytes], name: str) -> str:
    if name not in values:
        raise Malformed(f"not a CloudEvents record: header {name} is missing")
    try:
        return values[name].decode()
    except UnicodeDecodeError:
        raise Malformed(f"header {name} is not UTF-8") from None


def read_message(expected: type[M], headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> tuple[M, Envelope]:
    """Parse one record of a topic with messages of type `expected`. Raises Malformed for other types, also for a newer version."""
    envelope = read_envelope(headers)
    if envelope.type != expected.ce_type():
        raise Malformed(f"expected {expected.ce_type()}, got {envelope.type}")
    return expected.from_bytes(value), envelope


def read_fingerprint(expected: type[Message], headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> Fingerprint | None:
    """The fingerprint of a record's message. None for an unreadable record, and for messages without an own id: neither is ever a repeat."""
    try:
        return read_message(expected, headers, value)[0].fingerprint()
    except Malformed:
        return None


def new_traceparent() -> str:
    """A fresh, sampled W3C trace context."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
