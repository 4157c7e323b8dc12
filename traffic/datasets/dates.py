"""Dates of real data: often a day, sometimes a year, rarely an instant.

One rule for all: an action on an imprecise date happens at its noon (of a year: at its last day's noon), a question at its beginning. So a question never
sees an item of its own day (or year), and never its own text.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

NOON = timedelta(hours=12)
DAY = timedelta(days=1)


class DateBounds(NamedTuple):
    """The times of a question and of an action on a date. For an exact time they are equal, and `occurred_at < asked_at` excludes the item."""

    asked_at: datetime
    occurred_at: datetime


def instant(at: datetime) -> DateBounds:
    return DateBounds(at, at)


def day(at: datetime) -> DateBounds:
    return DateBounds(at, at + NOON)


def parse(text: str) -> DateBounds:
    """`YYYY`, `YYYY-MM`, `YYYY-MM-DD` (any of them without leading zeros) or an ISO time; without a zone it is UTC.

    Raises ValueError otherwise.
    """
    if any(mark in text for mark in "T: "):
        at = datetime.fromisoformat(text)
        return instant(at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
    parts = [int(part) for part in text.split("-")]
    if len(parts) == 3:
        return day(datetime(*parts, tzinfo=UTC))  # type: ignore[misc,arg-type]  # three integers
    year, month = (*parts, None)[:2] if len(parts) < 3 else (None, None)
    if year is None:
        raise ValueError("expected YYYY, YYYY-MM or YYYY-MM-DD")
    first = datetime(year, month or 1, 1, tzinfo=UTC)
    after = datetime(year + 1, 1, 1, tzinfo=UTC) if month is None or month == 12 else datetime(year, month + 1, 1, tzinfo=UTC)
    return DateBounds(first, after - DAY + NOON)
