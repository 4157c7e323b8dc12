"""Rows of CSV files. Errors name file, line, field and the expected form."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator

from traffic.datasets.files import DataFile
from traffic.datasets.rows import DataRow, Place


def csv_rows(file: DataFile, columns: Collection[str], *, line_breaks: bool = False) -> Iterator[DataRow]:
    """Rows of a CSV file with a header line that has at least `columns`. A row is one line, but with `line_breaks` quoted fields may have several."""
    header: list[str] | None = None
    for place, values in _csv_over_lines(file) if line_breaks else _csv_lines(file):
        if header is None:
            header = values
            if missing := [column for column in columns if column not in header]:
                raise place.bad(f"the header has no {', '.join(missing)}; expected {', '.join(columns)}, separated by commas")
            if len({*header}) < len(header):
                raise place.bad("the header has a column twice; expected each once")
        elif len(values) != len(header):
            raise place.bad(f"{len(values)} fields; expected {len(header)}, as in the header")
        elif values == header:
            raise place.bad("the header line again; expected a row")
        else:
            yield DataRow(place, dict(zip(header, values, strict=True)))
    if header is None:
        raise file.bad("empty; expected a header line")


def csv_header(file: DataFile) -> list[str]:
    """The columns of a CSV file. Empty if its first line is no header of CSV."""
    for _, line in file.lines():
        try:
            return next(csv.reader([line]), [])
        except csv.Error:
            break
    return []


def _csv_lines(file: DataFile) -> Iterator[tuple[Place, list[str]]]:
    for number, line in file.lines():
        place = Place(file, number)
        try:
            (values,) = csv.reader([_without_nul(place, line)], strict=True)
        except (csv.Error, ValueError) as error:
            cause = error if isinstance(error, csv.Error) else "not one row"
            raise place.bad(f"not CSV: {cause}; expected one row a line, with quotes around a field that holds a comma or a quote") from None
        yield place, values


def _csv_over_lines(file: DataFile) -> Iterator[tuple[Place, list[str]]]:
    """A row's place is its first line."""
    last = 0

    def lines() -> Iterator[str]:
        nonlocal last
        for last, line in file.lines(blank_too=True):
            yield f"{_without_nul(Place(file, last), line)}\n"

    reader = csv.reader(lines(), strict=True)
    while True:
        place = Place(file, last + 1)
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise place.bad(f"not CSV: {error}; expected quotes around a field that holds a comma, a quote or a line break") from None
        if values is None:
            return
        if values:  # not a blank line
            yield place, values


def _without_nul(place: Place, line: str) -> str:
    if "\x00" in line:
        raise place.bad("a NUL byte; expected text")
    return line
