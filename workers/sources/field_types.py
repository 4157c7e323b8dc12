"""What an expression's result must be for a field of a message. Nothing is converted by guess: the expression says how."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from schemas.times import parse_time


class WrongType(ValueError):
    """A result that the field does not take. The text names its type, never its value."""


def kind_of(value: object) -> str:
    """The type of a result, in words."""
    for kinds, words in _KINDS:
        if isinstance(value, kinds):
            return words
    return "a value of another type"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a decimal number"),
    (str, "a text"),
    (bytes, "bytes"),
    (datetime, "a time"),
    (timedelta, "a duration"),
    (list, "a list"),
    (dict, "an object"),
)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    advice = "; string(...) makes a text of it" if isinstance(value, int | float | bytes) and not isinstance(value, bool) else ""
    raise WrongType(f"gives {kind_of(value)}, expected a text{advice}")


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise WrongType(f"gives {kind_of(value)}, expected a list of texts")
    for number, each in enumerate(value):
        if not isinstance(each, str):
            raise WrongType(f"gives a list whose element {number} is {kind_of(each)}, expected texts; .map(each, string(each)) makes texts of them")
    return tuple(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        advice = "; double(...) makes a number of it" if isinstance(value, str) else ""
        raise WrongType(f"gives {kind_of(value)}, expected a number{advice}")
    return float(value)


def _time(value: object) -> datetime:
    if isinstance(value, str):
        try:
            return parse_time(value)
        except ValueError:
            raise WrongType("gives a text that is no time of RFC 3339 with an offset; add the offset, such as + 'Z', or use local_time(text, zone)") from None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    advice = "; epoch_seconds(...), epoch_millis(...) or epoch_micros(...) says what it counts" if is_number else ""
    raise WrongType(f"gives {kind_of(value)}, expected a time{advice}")


def _id(value: object) -> UUID | str:
    """A UUID, or a text from which the message's id is derived."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise WrongType(f"gives {'a blank text' if isinstance(value, str) else kind_of(value)}, expected a UUID, or another text or whole number of its own")
    try:
        return UUID(value) if len(value) == 36 else value
    except ValueError:
        return value


class FieldType(Enum):
    """The types of a message's fields."""

    TEXT = (_text,)
    TEXTS = (_texts,)
    NUMBER = (_number,)
    TIME = (_time,)
    ID = (_id,)

    def read(self, value: object) -> object:
        """The result as the message takes it. Raises WrongType."""
        reader: Callable[[object], object] = self.value[0]
        return reader(value)
