"""Dates of real data: often a day, sometimes a year, rarely an instant.

A wall in time needs one rule for all of them: what a user *did* on an imprecise date counts from its noon (a year: from its last day's noon),
what a user *asks* then counts from its beginning. So nothing of the same day (or year) is ever visible to a question, its own text least of all.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

NOON = timedelta(hours=12)
DAY = timedelta(days=1)


class DateBounds(NamedTuple):
    """The two ends of a date. For an instant they are the same, and the wall's `occurred_at < asked_at` keeps them apart."""

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
