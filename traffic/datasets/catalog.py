"""Finds the converter that reads a path.

One rule for folders: every file whose name looks like data is read, or the command refuses and names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traffic.datasets.authored_texts import ArxivAuthors, HuffPostAuthors
from traffic.datasets.events import Events
from traffic.datasets.files import BadData, DataFile, GivenFiles, shown
from traffic.datasets.global_opinions import GlobalOpinions
from traffic.datasets.lamp import Lamp
from traffic.datasets.movielens import MovieLens
from traffic.datasets.rows import DataRow, json_lines
from traffic.datasets.stackexchange import StackExchangePosts
from traffic.datasets.steps import Dataset

#: Recognized by the names of the files, or by the header of a CSV file.
_BY_NAME: Mapping[str, type[Lamp | MovieLens | GlobalOpinions]] = {"lamp": Lamp, "movielens": MovieLens, "goqa": GlobalOpinions}
#: Recognized by the fields of each file's first row.
_BY_FIELDS: Mapping[str, type[Events | ArxivAuthors | HuffPostAuthors | StackExchangePosts]] = {
    "events": Events,
    "arxiv": ArxivAuthors,
    "huffpost": HuffPostAuthors,
    "stackexchange": StackExchangePosts,
}
FORMATS = {**_BY_NAME, **_BY_FIELDS}


def open_dataset(path: Path, format: str = "auto", last: int | None = None) -> Dataset:
    """The data set at `path`. The latest `last` entries of each user are its questions. Raises BadData that lists the expected files."""
    if format not in ("auto", *FORMATS):
        raise BadData(f"format={format}: no such format; expected auto or one of {', '.join(FORMATS)}")
    found = _open(GivenFiles.at(path), [format] if format != "auto" else list(FORMATS))
    return found if last is None else _with_last(found, last)


def _open(given: GivenFiles, names: list[str]) -> Dataset:
    for name in names:
        if name in _BY_NAME and (found := _BY_NAME[name].at(given)):
            return found
    by_fields = [name for name in names if name in _BY_FIELDS]
    if not given.files or not by_fields:
        there = ", ".join(map(shown, (*(file.path.name for file in given.files), *given.not_read))) or "nothing"
        raise BadData(f"{shown(given.path)}: no data that can be read; {_looked_for(names)}. There is {there}")
    formats = {file.path.name: _format_of(file, by_fields) for file in given.files}
    if len({*formats.values()}) > 1:
        listed = ", ".join(f"{shown(name)} is {format}" for name, format in formats.items())
        raise BadData(f"{shown(given.path)}: files of several formats: {listed}; name one file, or move the others away")
    return _BY_FIELDS[next(iter(formats.values()))](given.files, given.not_read)


def _format_of(file: DataFile, names: list[str]) -> str:
    """By the first row, which must be whole: a file that cannot be read is never left out."""
    row = _first_row(file)
    for name in names:
        if row.fields.keys() >= {*_BY_FIELDS[name].FIELDS}:
            return name
    raise row.bad(f"the fields of this row fit no format; {_looked_for(names)}")


def _first_row(file: DataFile) -> DataRow:
    number, line = next(file.lines(), (1, ""))
    if not line:
        raise file.bad("empty; expected rows")
    if line.lstrip().startswith("["):
        raise file.bad(f"a JSON list; expected {Lamp.LOOKS_FOR}, or one object a line", number)
    if file.plain_name.endswith(".csv"):
        raise file.bad(f"CSV of an unknown format; expected {MovieLens.LOOKS_FOR}, or {GlobalOpinions.LOOKS_FOR}")
    return next(json_lines(file))


def _looked_for(names: list[str]) -> str:
    return "looked for " + "; ".join(f"{name}: {FORMATS[name].LOOKS_FOR}" for name in names)


def _with_last(found: Any, last: int) -> Dataset:
    if not hasattr(found, "last"):
        raise BadData(f"last={last}: {found.title} names its questions itself; leave `last` out")
    changed: Dataset = dataclasses.replace(found, last=last)
    return changed
