"""Times in every form that RFC 3339 allows, in `ce_time` and in every message's fields."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import envelope_headers, read_envelope
from schemas.erasures import ErasureRequest
from schemas.messages import Malformed
from schemas.times import parse_time

NINE = datetime(2026, 11, 21, 9, tzinfo=UTC)
BEFORE_LEAP = datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

READ = [
    ("2026-11-21T09:00:00Z", NINE),
    ("2026-11-21t09:00:00z", NINE),
    ("2026-11-21 09:00:00Z", NINE),
    ("2026-11-21 09:00:00z", NINE),
    ("2026-11-21T09:00:00-00:00", NINE),
    ("2026-11-21T10:30:00+01:30", NINE),
    ("2026-11-20T09:01:00-23:59", NINE),
    ("2026-11-21T09:00:00.0Z", NINE),
    ("2026-11-21T09:00:00.5Z", NINE.replace(microsecond=500_000)),
    ("2026-11-21t09:00:00.123456789012345678901234567890z", NINE.replace(microsecond=123_456)),
    ("2026-11-21T09:00:00." + "9" * 5_000 + "Z", NINE.replace(microsecond=999_999)),
    ("2016-12-31T23:59:60Z", BEFORE_LEAP),
    ("2016-12-31t23:59:60.25z", BEFORE_LEAP),
    ("2016-12-31T15:59:60-08:00", BEFORE_LEAP),
    ("2017-01-01 00:59:60+01:00", BEFORE_LEAP),
    ("9999-12-31T23:59:60Z", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    # not RFC 3339, and read by earlier versions
    ("2026-11-21T09:00Z", NINE),
    ("2026-11-21T09:00:00,5Z", NINE.replace(microsecond=500_000)),
    ("2026-11-21T10:00:00+0100", NINE),
    ("20261121T090000Z", NINE),
]
REFUSED = [
    "",
    "yesterday",
    "2026-11-21",
    "2026-11-21T09:00:00",
    "2026-11-21t09:00:00.5",
    "2026-13-01T09:00:00Z",
    "2026-02-30t09:00:00z",
    "2026-11-21T24:00:00Z",
    "2026-11-21T09:60:00Z",
    "2026-11-21T09:00:61Z",
    "2026-11-21T09:00:60Z",
    "2016-12-31T23:58:60Z",
    "2026-11-21T09:00:00+24:00",
    "10000-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:60+23:59",
    "2026-11-21T09:00:00Z\n",
    "\ud800",
    "\u0662\u0660\u0662\u0666-11-21T09:00:00Z",
]


def headers(ce_time: str) -> list[tuple[str, bytes]]:
    request = request_at(NINE.isoformat())
    sealed = envelope_headers(request, id=request.request_id, source="/tests")
    return [(name, ce_time.encode(errors="surrogatepass") if name == "ce_time" else value) for name, value in sealed]


def value_at(requested_at: object) -> bytes:
    return json.dumps({"request_id": str(uuid4()), "tenant": "acme", "user": "ada", "requested_at": requested_at}).encode()


def request_at(requested_at: object) -> ErasureRequest:
    return ErasureRequest.from_bytes(value_at(requested_at))


@pytest.mark.parametrize(("text", "at"), READ)
def test_headers_and_messages_read_the_same_times(text: str, at: datetime) -> None:
    assert read_envelope(headers(text)).time == at
    message = request_at(text)
    assert message.requested_at == at
    assert ErasureRequest.from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("text", REFUSED)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(Malformed, match="ce_time"):
        read_envelope(headers(text))
    with pytest.raises(Malformed, match=r"requested_at|json_invalid"):
        request_at(text)


@pytest.mark.parametrize("number", [1_795_251_600, 1_795_251_600.0, "1795251600"])
def test_a_message_still_reads_seconds_since_1970(number: object) -> None:
    assert request_at(number).requested_at == NINE


@given(st.text(max_size=40) | st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,12})?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"))
def test_any_text_is_a_time_with_an_offset_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_time(text).tzinfo is not None


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 3))
def test_the_order_of_times_is_kept(at: datetime, form: int) -> None:
    text = at.isoformat()
    forms = (text, text.replace("T", " "), text.replace("T", "t").replace("+00:00", "z"), text.replace("+00:00", "-00:00"))
    assert parse_time(forms[form]) == at
