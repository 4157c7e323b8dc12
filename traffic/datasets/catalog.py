"""Which converter reads a path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol, Self

from traffic.datasets.arxiv import ArxivAuthors
from traffic.datasets.events import Events
from traffic.datasets.huffpost import HuffPostAuthors
from traffic.datasets.lamp import Lamp
from traffic.datasets.movielens import MovieLens
from traffic.datasets.rows import BadData
from traffic.datasets.stackexchange import StackExchangePosts
from traffic.datasets.steps import Dataset


class Converter(Dataset, Protocol):
    """A data set's class: it knows its own files."""

    LOOKS_FOR: ClassVar[str]

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """The data set at `path`, or None where it is another one."""
        ...


FORMATS: Mapping[str, type[Converter]] = {
    "lamp": Lamp,
    "events": Events,
    "arxiv": ArxivAuthors,
    "huffpost": HuffPostAuthors,
    "movielens": MovieLens,
    "stackexchange": StackExchangePosts,
}


def open_dataset(path: Path, format: str = "auto") -> Dataset:
    """The data set at `path`. Raises BadData that lists what was looked for."""
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
    """Find the converter by what the files hold, not by their names."""
    _exists(path)
    for converter in FORMATS.values():
        if found := converter.at(path):
            return found
    looked_for = "; ".join(f"{name}: {converter.LOOKS_FOR}" for name, converter in FORMATS.items())
    raise BadData(f"{path}: no data set that can be read here. Looked for {looked_for}")


def _exists(path: Path) -> None:
    if not path.exists():
        raise BadData(f"{path}: no such file or folder")
