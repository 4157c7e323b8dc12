"""Functions of field expressions besides those of CEL itself: CEL's string extension, and times that are no RFC 3339 texts.

Each raises ValueError with a fixed text: the text of any other error could hold a user's text.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _whole_or_decimal(number: object) -> float | int:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError("its argument is no number")
    return number


def epoch_seconds(number: object) -> datetime:
    return EPOCH + timedelta(seconds=_whole_or_decimal(number))


def epoch_millis(number: object) -> datetime:
    return EPOCH + timedelta(milliseconds=_whole_or_decimal(number))


def epoch_micros(number: object) -> datetime:
    return EPOCH + timedelta(microseconds=_whole_or_decimal(number))


def local_time(text: str, zone: str) -> datetime:
    """A time without an offset, in a zone of the IANA database. The first of the two instants where a clock is set back."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is not None:
        raise ValueError("its first argument has an offset already")
    return at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError("its range is not inside the text")
    return text[start:stop]


def join(texts: list[str], separator: str = "") -> str:
    if not isinstance(texts, list):
        raise ValueError("its first argument is no list")
    return separator.join(texts)


#: By name: the function, and what a wrong argument's error says it takes.
_FUNCTIONS: dict[str, tuple[Callable[..., object], str]] = {
    "epoch_seconds": (epoch_seconds, "takes a number of seconds since 1970 between the years 1 and 9999"),
    "epoch_millis": (epoch_millis, "takes a number of milliseconds since 1970 between the years 1 and 9999"),
    "epoch_micros": (epoch_micros, "takes a number of microseconds since 1970 between the years 1 and 9999"),
    "local_time": (local_time, "takes a time without an offset, such as 2026-01-31T12:00:00, and a zone, such as Europe/Berlin"),
    "lowerAscii": (str.lower, "takes a text"),
    "upperAscii": (str.upper, "takes a text"),
    "trim": (str.strip, "takes a text"),
    "replace": (str.replace, "takes a text, what is replaced, and by what"),
    "split": (str.split, "takes a text and a separator that is not empty"),
    "substring": (substring, "takes a text, and a start and an end inside it"),
    "join": (join, "takes a list of texts and a separator"),
}


def _with_fixed_errors(name: str, function: Callable[..., object], takes: str) -> Callable[..., object]:
    @wraps(function)
    def call(*arguments: Any) -> object:
        try:
            return function(*arguments)
        except Exception:
            raise ValueError(f"{name}() {takes}") from None

    return call


#: What a Context of `cel` gets.
FUNCTIONS = {name: _with_fixed_errors(name, function, takes) for name, (function, takes) in _FUNCTIONS.items()}
