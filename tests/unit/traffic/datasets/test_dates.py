from __future__ import annotations

from datetime import UTC, datetime

import pytest

from traffic.datasets.dates import parse


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # parts of a date


@pytest.mark.parametrize(
    ("text", "asked_at", "occurred_at"),
    [
        ("2009-05-01", _utc(2009, 5, 1), _utc(2009, 5, 1, 12)),
        ("2009-5-1", _utc(2009, 5, 1), _utc(2009, 5, 1, 12)),
        ("2009-05", _utc(2009, 5, 1), _utc(2009, 5, 31, 12)),
        ("2014-01-21t20:26:05z", _utc(2014, 1, 21, 20, 26, 5), _utc(2014, 1, 21, 20, 26, 5)),
        ("2014-01-21 20:26:05.1234567", _utc(2014, 1, 21, 20, 26, 5, 123456), _utc(2014, 1, 21, 20, 26, 5, 123456)),
        ("2016-12-31T23:59:60", _utc(2016, 12, 31, 23, 59, 59, 999999), _utc(2016, 12, 31, 23, 59, 59, 999999)),
        ("9999", _utc(9999, 1, 1), _utc(9999, 12, 31, 12)),
        ("2009", _utc(2009, 1, 1), _utc(2009, 12, 31, 12)),
        ("2014-01-21T20:26:05.383", _utc(2014, 1, 21, 20, 26, 5, 383000), _utc(2014, 1, 21, 20, 26, 5, 383000)),
        ("2014-01-21T20:26:05+02:00", _utc(2014, 1, 21, 18, 26, 5), _utc(2014, 1, 21, 18, 26, 5)),
    ],
)
def test_an_imprecise_date_counts_late_as_a_deed_and_early_as_a_question(text: str, asked_at: datetime, occurred_at: datetime) -> None:
    assert parse(text) == (asked_at, occurred_at)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "May 2009",
        "2009-13-01",
        "2009-05-01-01",
        "yesterday",
        "2009-02-30",
        "2009-00",
        "2009-05-00",
        "0000",
        "10000",
        "209",
        "2_09",
        "\uff12009",
        "2009-05-01T25:00",
    ],
)
def test_an_invalid_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)
