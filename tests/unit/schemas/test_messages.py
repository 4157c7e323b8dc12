"""What a reader accepts, and what it says of what it refuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from schemas.drafts import Draft
from schemas.feedback import Feedback
from schemas.messages import MAX_VALUE_BYTES, Malformed, message_type
from schemas.queries import Query
from schemas.tasks import Task

SECRET = "what the user wrote"


def query(**fields: Any) -> Query:
    defaults = {"query_id": uuid4(), "tenant": "acme", "user": "ada", "domain": "movie_tag", "text": "a film", "asked_at": datetime.now(UTC)}
    return Query(**(defaults | fields))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff\xfe",
        SECRET.encode(),
        json.dumps([SECRET]).encode(),
        json.dumps({"query_id": SECRET, "text": SECRET}).encode(),
        json.dumps({"query_id": str(uuid4()), "tenant": "acme", "user": f"{SECRET}/x", "domain": SECRET, "text": SECRET, "asked_at": SECRET}).encode(),
    ],
)
def test_a_malformed_record_is_refused_without_repeating_it(value: bytes | None) -> None:
    with pytest.raises(Malformed) as raised:
        Query.from_bytes(value)
    assert "retouch.query.v1" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None  # the cause would hold the values


def test_a_value_that_is_too_large_is_not_parsed() -> None:
    """A compressed batch of a few kilobytes can hold it, and parsed it would take hundreds of times its size."""
    content = query().to_bytes()
    assert Query.from_bytes(content.ljust(MAX_VALUE_BYTES)) == Query.from_bytes(content)
    with pytest.raises(Malformed, match=f"{MAX_VALUE_BYTES + 1} bytes, more than"):
        Query.from_bytes(content.ljust(MAX_VALUE_BYTES + 1))


@pytest.mark.parametrize(
    "fields",
    [
        {"user": ""},
        {"user": " ada"},
        {"user": "a/b"},
        {"user": "a\nb"},
        {"user": "x" * 129},
        {"user": 7},
        {"domain": "Movie Tag"},
        {"text": "x" * 32_769},
        {"options": ("",)},
        {"options": ("a", "\u200b\u3164")},
        {"options": ("comedy", "comedy")},
        {"options": ("x", "caf\u00e9", "cafe\u0301")},
        {"options": ("comedy", " comedy\ufeff ")},
        {"options": ("1", "１")},
        {"options": ("\u0958" * 256, "x")},  # longer than a label in NFC
        {"asked_at": datetime(2026, 1, 1)},  # naive on purpose
    ],
)
def test_a_query_that_could_mislead_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        query(**fields)


def test_options_are_normalized_when_they_enter() -> None:
    options = ("cafe\u0301", " dark \u200bcomedy\n", "Dark comedy", "x²", "❤\ufe0f")
    message = query(options=options)
    assert message.options == ("café", "dark comedy", "Dark comedy", "x²", "❤\ufe0f")
    for distinct in (("2⁵", "25"), ("½", "1⁄2", "1/2"), ("①", "1"), ("''", '""', "“”"), ("'a'", '"a"', "a")):
        assert query(options=distinct).options == distinct
    assert Query.from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([SECRET, "b", f"\u200b{SECRET} "], "options: same_options_0_and_2"),
        (["b", "\u3164"], "options: blank_option_1"),
    ],
)
def test_a_refusal_of_options_names_their_positions(options: list[str], reason: str) -> None:
    value = json.dumps(json.loads(query().to_bytes()) | {"options": options}).encode()
    with pytest.raises(Malformed, match=reason) as raised:
        Query.from_bytes(value)
    assert SECRET not in str(raised.value)


def test_a_stored_message_with_a_query_that_is_refused_today_still_loads() -> None:
    stored = json.loads(Draft(query=query(options=("a", "b")), answer="a", base_model="m", base_ms=1.0).to_bytes())
    stored["query"]["options"] = ["a", "cafe\u0301", "a"]
    draft = Draft.from_bytes(json.dumps(stored).encode())
    assert draft.query.options == ("a", "cafe\u0301", "a")
    assert json.loads(draft.to_bytes()) == stored


def test_the_form_of_stored_options_does_not_change_the_content() -> None:
    """So a query that is sent or read again after an upgrade is a repeat and no conflict."""
    asked = query(options=("caf\u00e9", "dark comedy"))
    stored = json.loads(Draft(query=asked, answer="café", base_model="m", base_ms=1.0).to_bytes())
    stored["query"]["options"] = ["cafe\u0301", " dark \u200bcomedy\n"]
    draft = Draft.from_bytes(json.dumps(stored).encode())
    assert draft.query.options != asked.options and draft.content_digest() == asked.content_digest()
    stored["query"]["options"] = ["cafe", "dark comedy"]
    assert Draft.from_bytes(json.dumps(stored).encode()).content_digest() != asked.content_digest()


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_an_instant_beyond_the_calendar_is_refused(at: str) -> None:
    value = json.dumps(json.loads(query().to_bytes()) | {"asked_at": at}).encode()
    with pytest.raises(Malformed, match="asked_at: outside_the_calendar"):
        Query.from_bytes(value)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-11-21T09:00:00+01:00"])
def test_an_instant_is_converted_to_utc(at: str) -> None:
    message = query(asked_at=at)
    assert message.asked_at == datetime.fromisoformat(at)
    assert message.asked_at.utcoffset() == timedelta(0)
    assert Query.from_bytes(message.to_bytes()) == message


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError):
        query().text = "other"  # type: ignore[misc]  # that is the point


def test_a_message_survives_serialization() -> None:
    message = query(options=("1", "2"), text="é ☃ \u2028")
    assert Query.from_bytes(message.to_bytes()) == message
    assert message.key == b"acme/ada"


def test_the_error_names_an_unknown_type() -> None:
    with pytest.raises(Malformed, match=r"unknown ce_type 'retouch\.query\.v9'"):
        message_type("retouch.query.v9")


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ((), Task.TEXT),
        (("1", "2"), Task.RATING),
        (("-1", "1"), Task.RATING),
        (("comedy", "1"), Task.LABEL),
        (("²", "1"), Task.LABEL),
        (("٣", "1"), Task.LABEL),
        (("--5", "1"), Task.LABEL),
        (("-", "1"), Task.LABEL),
        (("5\n", "\u200e1"), Task.RATING),  # options are normalized when they enter
        (("5", "１"), Task.LABEL),  # in NFC: digits of full width are other characters
    ],
)
def test_the_kind_of_task_follows_from_the_options(options: tuple[str, ...], task: Task) -> None:
    assert query(options=options).task is task


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no_truth_and_no_score"),
        ({"truth": "  "}, "no_truth_and_no_score"),
        ({"truth": "\u200b\u3164"}, "no_truth_and_no_score"),
        ({"score": 1.5}, "less_than_equal"),
    ],
)
def test_empty_feedback_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Feedback(feedback_id=uuid4(), query_id=uuid4(), tenant="acme", user="ada", occurred_at=datetime.now(UTC), **fields)
