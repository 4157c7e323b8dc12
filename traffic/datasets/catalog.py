"""Finds the converter that reads a path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from traffic.datasets.authored_texts import ArxivAuthors, HuffPostAuthors
from traffic.datasets.events import Events
from traffic.datasets.lamp import Lamp
from traffic.datasets.movielens import MovieLens
from traffic.datasets.rows import BadData
from traffic.datasets.stackexchange import StackExchangePosts
from traffic.datasets.steps import Dataset


class Converter(Dataset, Protocol):
    """A data set's class, which recognizes its own files."""

    LOOKS_FOR: ClassVar[str]

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """The data set at `path`, or None if the files have another format."""


FORMATS: Mapping[str, type[Converter]] = {
    "lamp": Lamp,
    "events": Events,
    "arxiv": ArxivAuthors,
    "huffpost": HuffPostAuthors,
    "movielens": MovieLens,
    "stackexchange": StackExchangePosts,
}


def open_dataset(path: Path, format: str = "auto", last: int | None = None) -> Dataset:
    """The data set at `path`. The latest `last` entries of each user are its questions. Raises BadData that lists the expected files."""
    found = _open(path, format)
    return found if last is None else _with_last(found, last)


def _open(path: Path, format: str) -> Dataset:
    if format == "auto":
        return detect(path)
    if format not in FORMATS:
        raise BadData(f"format={format}: no such format; expected auto or one of {', '.join(FORMATS)}")
    _exists(path)
    converter = FORMATS[format]
    if found := converter.at(path):
        return found
    raise BadData(f"{path}: not {format}; looked for {converter.LOOKS_FOR}")


def detect(path: Path) -> Dataset:
    """Find the converter by the content of the files, not by their names."""
    _exists(path)
    for converter in FORMATS.values():
        if found := converter.at(path):
            return found
    looked_for = "; ".join(f"{name}: {converter.LOOKS_FOR}" for name, converter in FORMATS.items())
    raise BadData(f"{path}: no data set that can be read here. Looked for {looked_for}")


def _with_last(found: Any, last: int) -> Dataset:
    if not hasattr(found, "last"):
        raise BadData(f"last={last}: {found.title} names its questions itself; leave `last` out")
    changed: Dataset = dataclasses.replace(found, last=last)
    return changed


def _exists(path: Path) -> None:
    if not path.exists():
        raise BadData(f"{path}: no such file or folder")
