"""Rows of files. Errors name file, line, field and the expected form, never the value, which may be a user's text."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from infra.errors import BadSetting
from schemas.messages import Message
from traffic.datasets import dates

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
    return f"{plain[: MAX_USER_ID_CHARS - 9].strip()}~{hashlib.sha256(raw.encode(errors='surrogatepass')).hexdigest()[:8]}"


M = TypeVar("M", bound=Message)
T = TypeVar("T")

#: Characters of JSON text that are read at once.
CHUNK_CHARS = 1 << 20
_BLANK = " \t\r\n"


class BadData(BadSetting):
    """The data set has an error. Nothing of it was sent."""


@dataclass(frozen=True)
class DataRow:
    """One record of a file, with its position. `line` counts from 1."""

    path: Path
    line: int
    fields: Mapping[str, Any]

    def bad(self, what: str) -> BadData:
        return BadData(f"{self.path}:{self.line}: {what}")

    def text(self, name: str, *, filled: bool = False) -> str:
        """A text field. Numbers become text. `filled`: a blank field is an error."""
        value = self.fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self.bad(f"field {name!r} is {'missing' if value is None else type(value).__name__}; expected text")
        if filled and not value.strip():
            raise self.bad(f"field {name!r} is empty; expected text")
        return value

    def read(self, name: str, parse: Callable[[str], T], expected: str) -> T:
        """A text field, parsed."""
        try:
            return parse(self.text(name))
        except (ValueError, OverflowError):
            raise self.bad(f"field {name!r} is not {expected}") from None

    def user(self, name: str) -> str:
        return self.read(name, user_id, "a user's id")

    def moment(self, name: str) -> dates.DateBounds:
        return self.read(name, dates.parse, "a date such as 2009-05-01, 2009, or an ISO time")

    def within(self, fields: Any, what: str) -> DataRow:
        """An object inside this row, as a row with the same position."""
        if not isinstance(fields, dict):
            raise self.bad(f"{what} is {type(fields).__name__}; expected an object")
        return DataRow(self.path, self.line, fields)

    def message(self, kind: type[M], **fields: Any) -> M:
        """Build a message from this row. Raises BadData for a field that the message rejects."""
        try:
            return kind(**fields)
        except ValidationError as error:
            raise self.bad(_refused(kind, error)) from None


def json_lines(path: Path) -> Iterator[DataRow]:
    """Objects of a JSON Lines file. Blank lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError:
                raise BadData(f"{path}:{number}: not JSON; expected one object a line, in UTF-8") from None
            yield _row(path, number, value)


def jsonl_with(path: Path, fields: Collection[str]) -> Path | None:
    """The file at `path`, or the first `*.jsonl` of the folder, whose first row has all `fields`."""
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        try:
            first = next(json_lines(file), None)
        except BadData:
            continue
        if first and first.fields.keys() >= set(fields):
            return file
    return None


def csv_rows(path: Path) -> Iterator[DataRow]:
    """Rows of a CSV file with a header line."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        for fields in reader:
            yield DataRow(path, reader.line_num, fields)


def json_array(path: Path) -> Iterator[DataRow]:
    """Objects of a JSON file that is one list, read in parts: LaMP's files are too large for memory."""
    decoder = json.JSONDecoder()
    # A byte that is not UTF-8 becomes a replacement character, so that one bad tweet does not reject the file.
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        text = file.read(CHUNK_CHARS)
        line, at = 1, _skip(text, 0, _BLANK)
        if text[at : at + 1] != "[":
            raise BadData(f"{path}:1: expected a JSON list of objects")
        at += 1
        while True:
            start = _skip(text, at, _BLANK + ",")
            line, at = line + text.count("\n", at, start), start
            if text[at : at + 1] == "]":
                return
            try:
                value, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                if more := file.read(max(CHUNK_CHARS, len(text))):
                    text, at = text[at:] + more, 0
                    continue
                raise BadData(f"{path}:{line + text.count(chr(10), at, error.pos)}: not JSON, or cut short: {error.msg}") from None
            yield _row(path, line, value)
            line, at = line + text.count("\n", at, end), end


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _row(path: Path, line: int, value: Any) -> DataRow:
    if not isinstance(value, dict):
        raise BadData(f"{path}:{line}: found {type(value).__name__}; expected an object")
    return DataRow(path, line, value)


def _refused(kind: type[Message], error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False)
    return f"no {kind.ce_type()}: " + "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'value'}: {problem['msg']}" for problem in problems[:3])
