"""Reads times: all of RFC 3339, and the ISO 8601 forms that `datetime.fromisoformat` reads."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

#: RFC 3339, section 5.6. Its note allows a blank between date and time, and lower-case `t` and `z`.
_RFC3339 = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})")
_LAST_MICROSECOND = timedelta(microseconds=999_999)


def parse_time(text: str) -> datetime:
    """The instant of `text`, with its offset. Digits after the microseconds are cut off.

    Python has no leap seconds: all instants within one (`23:59:60` UTC, at the end of any day) read as the last microsecond before it. So the order of
    times is kept.

    Raises ValueError for any other text, also for a time without an offset.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = _rfc3339(text)
    if at.tzinfo is None:
        raise ValueError("a time needs an offset, such as Z or +01:00")
    return at


def _rfc3339(text: str) -> datetime:
    """The forms that Python does not read: lower case, and leap seconds."""
    if form := _RFC3339.fullmatch(text):
        date, minute, second, fraction, offset = form.groups()
        is_leap = second == "60"
        at = datetime.fromisoformat(f"{date}T{minute}:{'59' if is_leap else second}.{(fraction or '')[:6]:0<6}{offset.upper()}")
        return _before_leap_second(at) if is_leap else at
    raise ValueError("not a time as in RFC 3339")


def _before_leap_second(at: datetime) -> datetime:
    at = at.replace(microsecond=0)
    try:
        in_utc = at.astimezone(UTC)
    except OverflowError:
        raise ValueError("the instant lies outside the years 1 to 9999 in UTC") from None
    if (in_utc.hour, in_utc.minute) != (23, 59):
        raise ValueError("only the last minute of a day in UTC has a second 60")
    return at + _LAST_MICROSECOND
