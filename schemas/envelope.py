"""The headers of a record: CloudEvents 1.0 for Kafka in binary mode, and W3C Trace Context.

The names come from the two specifications: `ce_id`, `ce_source`, `ce_type`, `ce_specversion`, `ce_time`, `content-type`, `traceparent`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from schemas.messages import Malformed, Message, message_type
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


def read_envelope(headers: Iterable[tuple[str, bytes | None]]) -> Envelope:
    """Parse the headers of a record; headers with a null value are ignored. Raises Malformed if they are not CloudEvents of a declared type."""
    values = {name.lower(): value for name, value in headers or () if value is not None}
    try:
        fields = {name: values[name].decode() for name in ("ce_id", "ce_source", "ce_type", "ce_time")}
    except (KeyError, UnicodeDecodeError) as error:
        raise Malformed(f"not a CloudEvents record: header {error} is missing or not UTF-8") from None
    message_type(fields["ce_type"])
    try:
        time = parse_time(fields["ce_time"])
    except ValueError:
        raise Malformed("header ce_time is not an RFC 3339 time with an offset") from None
    traceparent = values.get("traceparent", b"").decode(errors="replace")
    is_valid = _TRACEPARENT.fullmatch(traceparent)
    return Envelope(fields["ce_id"], fields["ce_source"], fields["ce_type"], time, traceparent if is_valid else new_traceparent())


def record_id(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """A record's `ce_id`, which identifies repeats without parsing the record; None if it has none."""
    value = next((value for name, value in headers if name == "ce_id" and value), None)
    return value.decode(errors="replace") if value else None


def read_message(expected: type[M], headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> tuple[M, Envelope]:
    """Parse one record of a topic with messages of type `expected`. Raises Malformed for other types, also for a newer version."""
    envelope = read_envelope(headers)
    if envelope.type != expected.ce_type():
        raise Malformed(f"expected {expected.ce_type()}, got {envelope.type}")
    return expected.from_bytes(value), envelope


def new_traceparent() -> str:
    """A fresh, sampled W3C trace context."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
