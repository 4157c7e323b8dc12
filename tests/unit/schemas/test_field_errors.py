"""The reason of a refused message: the field, the kind of error, and what would be right, without the value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.feedback import Feedback
from schemas.messages import Malformed, Message
from schemas.queries import Query

SECRET = "sécrèt-7"
IDS = {"tenant": "acme", "user": "ada"}
QUERY = {**IDS, "query_id": "659b1ae9-65e5-5f22-8b66-93054237b0a8", "domain": "movie_tag", "text": "t", "asked_at": "2026-01-31T18:00:00Z"}
FEEDBACK = {**IDS, "feedback_id": QUERY["query_id"], "query_id": QUERY["query_id"], "score": 1, "occurred_at": QUERY["asked_at"]}


def reason(kind: type[Message], value: object) -> str:
    with pytest.raises(Malformed) as raised:
        kind.from_bytes(json.dumps(value).encode())
    assert SECRET not in str(raised.value)
    return str(raised.value).removeprefix(f"{kind.ce_type()}: ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"query_id": SECRET}, "query_id: uuid_parsing (write a UUID)"),
        ({"query_id": 7}, "query_id: uuid_type (write a UUID as text)"),
        ({"user": f"{SECRET}/"}, "user: bad_name (must be printable, without '/' and without blanks around it)"),
        ({"user": ""}, "user: string_too_short (write at least 1 characters)"),
        ({"user": "x" * 129}, "user: string_too_long (write at most 128 characters)"),
        ({"domain": SECRET}, "domain: string_pattern_mismatch (write a text that matches ^[a-z][a-z0-9_]{0,63}$)"),
        ({"text": 7}, "text: string_type (write a text)"),
        ({"options": SECRET}, "options: tuple_type (write a list)"),
        ({"options": [SECRET, SECRET]}, "options: same_options_0_and_1 (options 0 and 1 are the same text; give each option once)"),
        ({"options": ["x"] * 257}, "options: too_long (write at most 256 entries)"),
        ({"asked_at": "2026-01-31T18:00:00"}, "asked_at: timezone_aware (write RFC 3339 with an offset, such as 2026-01-31T18:00:00Z)"),
        ({"asked_at": SECRET}, "asked_at: datetime_from_date_parsing (write RFC 3339 with an offset, such as 2026-01-31T18:00:00Z)"),
        ({"asked_at": None}, "asked_at: datetime_type (write RFC 3339 with an offset, such as 2026-01-31T18:00:00Z)"),
        ({"asked_at": "0001-01-01T00:00:00+01:00"}, "asked_at: outside_the_calendar (the instant lies outside the years 1 to 9999 in UTC)"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_is_right(changes: dict[str, Any], expected: str) -> None:
    assert reason(Query, QUERY | changes) == expected


def test_an_unknown_strategy_is_answered_with_the_known_ones() -> None:
    assert reason(Query, QUERY | {"strategy": SECRET}).startswith("strategy: enum (write 'zero_shot', 'zero_shot_cot', ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"score": 1.5}, "score: less_than_equal (write 1.0 or less)"),
        ({"score": -1}, "score: greater_than_equal (write 0.0 or more)"),
        ({"score": SECRET}, "score: float_parsing (write a number)"),
        ({"score": None, "truth": " "}, "value: no_truth_and_no_score (needs a truth that is not blank, a score, or both)"),
    ],
)
def test_feedback_is_answered_in_the_same_way(changes: dict[str, Any], expected: str) -> None:
    assert reason(Feedback, FEEDBACK | changes) == expected


def test_missing_fields_are_named_up_to_five() -> None:
    assert reason(Query, {}) == "; ".join(f"{name}: missing (the field is required)" for name in list(QUERY_FIELDS)[:5]) + "; and 1 more"


QUERY_FIELDS = [name for name, field in Query.model_fields.items() if field.is_required()]


@pytest.mark.parametrize(("value", "expected"), [([], "value: model_type (write a JSON object)")])
def test_a_value_that_is_no_object_is_refused(value: object, expected: str) -> None:
    assert reason(Query, value) == expected


def test_a_value_that_is_no_json_is_refused() -> None:
    with pytest.raises(Malformed, match=r"value: json_invalid \(write one JSON object\)$"):
        Query.from_bytes(SECRET.encode())
