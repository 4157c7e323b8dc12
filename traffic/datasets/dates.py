"""Dates of real data: often a day, sometimes a year, rarely an instant.

One rule for all: an action on an imprecise date happens at its noon (of a year: at its last day's noon), a question at its beginning. So a question never
sees an item of its own day (or year), and never its own text. If exact times and imprecise dates are mixed, a question after a noon with such an action is
asked at that noon: the action may really be later.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from schemas.times import parse_time

NOON = timedelta(hours=12)
#: The first artificial day of data without dates.
FIRST_DAY = datetime(2000, 1, 1, tzinfo=UTC)

_DATE = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})(?:-([0-9]{1,2}))?)?")


class DateBounds(NamedTuple):
    """The times of a question and of an action on a date. For an exact time they are equal, and `occurred_at < asked_at` excludes the item."""

    asked_at: datetime
    occurred_at: datetime

    @property
    def is_exact(self) -> bool:
        return self.asked_at == self.occurred_at


def instant(at: datetime) -> DateBounds:
    return DateBounds(at, at)


def day(at: datetime) -> DateBounds:
    return DateBounds(at, at + NOON)


def before_noon_actions(at: datetime, noons: Container[datetime]) -> datetime:
    """`at`, or the noon of its day if that is earlier and one of `noons`, the times of actions on imprecise dates. A query at that noon does not see them."""
    noon = at.replace(hour=12, minute=0, second=0, microsecond=0)
    return min(at, noon) if noon in noons else at


def parse(text: str) -> DateBounds:
    """`YYYY`, `YYYY-MM`, `YYYY-MM-DD` (month and day also without leading zeros) or a time as in RFC 3339; without an offset it is UTC.

    Raises ValueError otherwise, and OverflowError for a time that leaves the years 1 to 9999 in UTC.
    """
    if any(mark in text for mark in "Tt: "):
        return instant(_time(text).astimezone(UTC))
    found = _DATE.fullmatch(text)
    if not found:
        raise ValueError("expected YYYY, YYYY-MM or YYYY-MM-DD")
    year, month, day_of_month = (None if part is None else int(part) for part in found.groups())
    assert year is not None
    if month is not None and day_of_month is not None:
        return day(datetime(year, month, day_of_month, tzinfo=UTC))
    first, last_month = datetime(year, month if month is not None else 1, 1, tzinfo=UTC), month or 12
    return DateBounds(first, datetime(year, last_month, monthrange(year, last_month)[1], tzinfo=UTC) + NOON)


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        return parse_time(f"{text}Z")
