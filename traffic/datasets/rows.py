"""Rows of files. Errors name file, line, item, field and the expected form, never the value, which may be a user's text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ValidationError

from schemas.messages import Message
from schemas.sameness import is_blank
from schemas.tasks import choose_option
from traffic.datasets import dates
from traffic.datasets.files import BadData, DataFile, NotJson, named_by_id, parse_json, shown

MAX_USER_ID_CHARS = 128


def user_id(raw: str) -> str:
    """`raw` itself if it is a valid id. Otherwise invalid characters become `_`, and a digest is added so that different users stay different.

    Raises ValueError for an empty id.
    """
    plain = " ".join(raw.split())
    if not plain:
        raise ValueError("empty")
    plain = "".join(character if character.isprintable() and character != "/" else "_" for character in plain)
    if plain == raw and len(plain) <= MAX_USER_ID_CHARS:
        return plain
    return f"{plain[: MAX_USER_ID_CHARS - 9].strip()}~{hashlib.sha256(raw.encode()).hexdigest()[:8]}"


M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """The position of a row. `line` counts from 1. `item` is the position inside the line, if a line has more than one row."""

    file: DataFile
    line: int
    item: str = ""

    def __str__(self) -> str:
        return f"{shown(self.file.path)}:{self.line}{f': {self.item}' if self.item else ''}"

    def bad(self, what: str) -> BadData:
        return BadData(f"{self}: {what}")

    def message(self, kind: type[M], /, **fields: Any) -> M:
        """Build a message. Raises BadData for a field that the message rejects."""
        try:
            return kind(**fields)
        except ValidationError as error:
            raise self.bad(_refused(kind, error)) from None


@dataclass(frozen=True)
class DataRow:
    """One record of a file, with its place."""

    place: Place
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, place: Place, value: Any, what: str = "") -> Self:
        """Raises BadData if `value` is no object. `what` names it in the error."""
        if not isinstance(value, dict):
            raise place.bad(f"{what or 'found'} {'is ' if what else ''}{_kind(value)}; expected an object")
        return cls(place, value)

    def bad(self, what: str) -> BadData:
        return self.place.bad(what)

    def text(self, name: str, *, filled: bool = False) -> str:
        """A text field. Numbers become text. `filled`: a blank field is an error."""
        value = self.fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and (isinstance(value, int) or math.isfinite(value)):
            value = str(value)
        if not isinstance(value, str):
            raise self.bad(f"{self._found(name)}; expected text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.bad(f"field {name!r} holds half of a surrogate pair; expected Unicode text") from None
        if filled and is_blank(value):
            raise self.bad(f"field {name!r} is empty; expected text")
        return value

    def read(self, name: str, parse: Callable[[str], T], expected: str) -> T:
        """A text field, parsed."""
        text = self.text(name)
        try:
            return parse(text)
        except (ValueError, OverflowError):
            raise self.bad(f"field {name!r} is not {expected}") from None

    def user(self, name: str) -> str:
        return self.read(name, user_id, "a user's id")

    def moment(self, name: str) -> dates.DateBounds:
        return self.read(name, dates.parse, "a date such as 2009-05-01, 2009, or a time as in RFC 3339")

    def object(self, name: str) -> DataRow:
        """An object in a field of this row, as a row with the same place."""
        value = self.fields.get(name)
        if not isinstance(value, dict):
            raise self.bad(f"{self._found(name)}; expected an object")
        return DataRow(self.place, value)

    def objects(self, name: str) -> list[DataRow]:
        """A list of objects in a field of this row, as rows. Their places have the number in the list, from 0, and the id."""
        listed = self.fields.get(name)
        if not isinstance(listed, list):
            raise self.bad(f"{self._found(name)}; expected a list of objects")
        return [self._item(f"{name}[{number}]", value) for number, value in enumerate(listed)]

    def _found(self, name: str) -> str:
        return f"field {name!r} is {_kind(self.fields[name]) if name in self.fields else 'missing'}"

    def _item(self, name: str, value: Any) -> DataRow:
        where = f"{self.place.item}, {name}" if self.place.item else name
        item = DataRow.of(replace(self.place, item=where), value)
        return replace(item, place=replace(item.place, item=where + named_by_id(item.fields)))


def _kind(value: object) -> str:
    """What a JSON value is, without the value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case float() if not math.isfinite(value):
            return "a number too large to read"
        case int() | float():
            return "a number"
        case str():
            return "text"
    return "a list" if isinstance(value, list) else "an object"


class FirstPlaces:
    """The place where each id was first used."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._places: dict[object, Place] = {}

    def take(self, id: object, place: Place) -> None:
        """Raises BadData with both places for an id that was used before."""
        if id in self._places:
            raise place.bad(f"{self._what} occurs twice; expected it once. The first is at {self._places[id]}")
        self._places[id] = place

    def __contains__(self, id: object) -> bool:
        return id in self._places


@dataclass(frozen=True)
class JsonLinesFiles:
    """The files of a format of JSON Lines, all of which are read, in the order of their names. A file whose first row has all `FIELDS` has the format."""

    LOOKS_FOR: ClassVar[str]
    FIELDS: ClassVar[tuple[str, ...]]
    title: ClassVar[str]

    files: tuple[DataFile, ...]
    not_read: tuple[str, ...] = ()

    def rows(self) -> Iterator[DataRow]:
        return chain.from_iterable(map(json_lines, self.files))


def among(place: Place, truth: str, options: tuple[str, ...]) -> str:
    """The option that the truth names. Raises BadData if there is none."""
    chosen = choose_option(truth, options)
    if chosen is None:
        raise place.bad(f"the truth is none of the {len(options)} options")
    return chosen


def json_lines(file: DataFile) -> Iterator[DataRow]:
    """Objects of a JSON Lines file. Blank lines are skipped."""
    for number, line in file.lines():
        place = Place(file, number)
        try:
            value = parse_json(line)
        except NotJson as error:
            at = "" if error.at is None else f": character {error.at + 1}"
            hint = "; a line ends with a line feed, not with a lone carriage return" if "\r" in line else ""
            raise place.bad(f"not JSON: {error}{at}; expected one object a line{hint}") from None
        yield DataRow.of(place, value)


def json_array(file: DataFile) -> Iterator[DataRow]:
    """Objects of a JSON file that is one list."""
    for number, line, value in file.list_items():
        place = Place(file, line, f"row {number}")
        row = DataRow.of(place, value)
        yield replace(row, place=replace(place, item=place.item + named_by_id(row.fields)))


def _refused(kind: type[Message], error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False)
    return f"no {kind.ce_type()}: " + "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'value'}: {problem['msg']}" for problem in problems[:3])
