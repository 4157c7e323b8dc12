"""Field expressions: what they give, what is refused before the first record, and reasons without the record's values."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sources.expressions import MAX_CHARS, MAX_DEPTH, STANDARD, Expression, ExpressionFailed, RecordValues
from workers.sources.functions import FUNCTIONS

SECRET = "confidential"
VALUE = {
    "id": 7,
    "text": SECRET,
    "none": None,
    "stars": 4,
    "tags": [{"name": "a"}, {"name": "b"}],
    "at": 1_767_225_600_000,
    "local": "2026-01-01T12:00:00",
    "digits": 2**70,
    "price": Decimal("12.50"),
    "uuid": UUID(int=1),
    "day": date(2026, 1, 2),
    "naive": datetime(2026, 1, 2, 3),  # as Avro's local timestamps are
    "length": timedelta(seconds=90),
}


def result(text: str) -> object:
    return Expression(text).evaluate(RecordValues(VALUE, {"key": "ann", "headers": {"x-tenant": "shop"}}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'shop'", "shop"),
        ("string(value.id)", "7"),
        ("record.headers['x-tenant'] + '/' + record.key", "shop/ann"),
        ("has(value.title) ? value.title : ''", ""),
        ("value.none == null ? 'x' : value.none", "x"),
        ("value.tags.map(tag, tag.name)", ["a", "b"]),
        ("value.tags.map(tag, tag.name).join(', ')", "a, b"),
        ("(double(value.stars) - 1.0) / 4.0", 0.75),
        ("epoch_millis(value.at)", datetime(2026, 1, 1, tzinfo=UTC)),
        ("epoch_seconds(value.at / 1000)", datetime(2026, 1, 1, tzinfo=UTC)),
        ("epoch_micros(value.at * 1000)", datetime(2026, 1, 1, tzinfo=UTC)),
        ("local_time(value.local, 'Europe/Berlin')", datetime(2026, 1, 1, 11, tzinfo=UTC)),
        ("value.local + 'Z'", "2026-01-01T12:00:00Z"),
        ("' Sci Fi '.trim().lowerAscii().replace(' ', '_')", "sci_fi"),
        ("'a-b'.split('-')[1] + 'abc'.substring(1) + 'abc'.substring(0, 1) + 'x'.upperAscii()", "bbcaX"),
        ("value.digits", str(2**70)),
        ("value.price", "12.50"),
        ("value.uuid", "00000000-0000-0000-0000-000000000001"),
        ("value.day", "2026-01-02"),
        ("value.naive", "2026-01-02T03:00:00"),
        ("value.length == duration('90s')", True),
    ],
)
def test_a_result(text: str, expected: object) -> None:
    assert result(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("value.", "column 7"),
        ("'open", "is no expression in CEL"),
        ("product_rating", "product_rating is no name here"),
        ("valeu.id", "valeu is no name here"),
        ("now()", r"now\(\) is no function here"),
        ("1" * (MAX_CHARS + 1), f"at most {MAX_CHARS}"),
        ("", "is no expression in CEL"),
    ],
)
def test_what_is_no_expression_is_refused_at_once(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("value.title", "there is no field title"),
        ("value[value.text]", "there is no such field"),
        ("value.none.x", "such as null"),
        ("value.text + value.id", r"unsupported operation: string \+ int"),
        ("value.tags[9]", "no such element"),
        ("value.id / 0", "divides by zero"),
        ("9223372036854775807 + value.id", "out of range"),
        ("int(value.text)", r"int\(\) does not take this argument"),
        ("timestamp(value.text)", r"timestamp\(\) does not take this argument"),
        ("epoch_millis(value.text)", "number of milliseconds"),
        ("epoch_seconds(value.at)", "between the years 1 and 9999"),
        ("local_time(value.text, 'UTC')", "takes a time without an offset"),
        ("local_time(value.local, value.text)", "and a zone"),
        ("string(value.none)", r"string\(\) does not take arguments of these types"),
        ("value.text.split('')", "separator that is not empty"),
        ("value.text.substring(99)", "inside it"),
        ("value.text.matches(value.text + '(')", r"matches\(\)"),
    ],
)
def test_a_reason_holds_no_value(text: str, reason: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ExpressionFailed, match=reason) as failed:
        result(text)
    assert SECRET not in str(failed.value) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("name", sorted(STANDARD))
def test_the_library_has_each_function_that_is_called_standard(name: str) -> None:
    arguments = {"duration": "'1s'", "timestamp": "'2026-01-01T00:00:00Z'", "int": "'1'", "uint": "'1'", "double": "'1'"}.get(name, "'a'")
    of_time = f"timestamp('2026-01-01T00:00:00Z').{name}()"
    of_text = f"'a'.{name}('a')"
    text = of_time if name.startswith("get") else of_text if name in ("contains", "startsWith", "endsWith", "matches") else f"{name}({arguments})"
    Expression(text).evaluate()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_wrong_argument_of_our_functions_has_a_fixed_error(name: str) -> None:
    with pytest.raises(ExpressionFailed, match=rf"^{name}\(\) takes "):
        Expression(f"{name}({{'a': '{SECRET}'}})").evaluate()


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_value_is_nested_only_so_deep() -> None:
    assert Expression("size(value)").evaluate(RecordValues(nested(MAX_DEPTH), {})) == 1
    with pytest.raises(ExpressionFailed, match="levels deep"):
        RecordValues(nested(MAX_DEPTH + 1), {})


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(JSON)
def test_any_json_value_is_taken(value: object) -> None:
    RecordValues(value, {"key": None})


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = Expression(text)
    except ValueError:
        return
    with suppress(ExpressionFailed):
        expression.evaluate(RecordValues(VALUE, {}))
