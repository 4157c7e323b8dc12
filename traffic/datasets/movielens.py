"""MovieLens: tags and ratings that users gave to films.

A tag counts if it is one of LaMP-2's 15 labels (domain `movie_tag`). Other tags are skipped.
Ratings of 0.5 to 5 become whole stars, halves upwards, so that LaMP-3's metrics apply (domain `movie_rating`).
There are no plot texts: a film is its title and genres.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import ClassVar, Self

from schemas.tasks import MOVIE_TAGS, STARS
from traffic.datasets import dates
from traffic.datasets.rows import DataRow, csv_rows
from traffic.datasets.steps import Step
from traffic.datasets.timelines import Entry, latest_as_questions

_FILES = ("movies.csv", "ratings.csv", "tags.csv")


@dataclass(frozen=True)
class MovieLens:
    """Each user's latest `last` tags, and latest `last` ratings, are questions."""

    LOOKS_FOR: ClassVar = "movies.csv, ratings.csv and tags.csv"

    folder: Path
    last: int = 3

    @classmethod
    def at(cls, path: Path) -> Self | None:
        return cls(path) if all((path / name).is_file() for name in _FILES) else None

    @property
    def title(self) -> str:
        return "MovieLens tags and ratings"

    def steps(self, tenant: str) -> Iterator[Step]:
        films = {row.text("movieId"): _film(row) for row in csv_rows(self.folder / "movies.csv")}
        tags = (_tag(row, films) for row in csv_rows(self.folder / "tags.csv") if _label(row) in MOVIE_TAGS)
        ratings = (_rating(row, films) for row in csv_rows(self.folder / "ratings.csv"))
        return latest_as_questions(chain(tags, ratings), self.last, tenant)


def _label(row: DataRow) -> str:
    return row.text("tag").strip().lower()


def _film(row: DataRow) -> str:
    genres = row.text("genres").replace("|", ", ")
    return f"{row.text('title', filled=True)}. {genres}"


def _tag(row: DataRow, films: dict[str, str]) -> Entry:
    user, label = row.user("userId"), _label(row)
    source_id = f"movielens/tag/{row.text('movieId')}/{row.text('tag')}"
    return Entry(row, user, "movie_tag", source_id, _film_of(row, films), label, _moment(row), MOVIE_TAGS)


def _rating(row: DataRow, films: dict[str, str]) -> Entry:
    stars = row.read("rating", _stars, "a rating of 0.5 to 5")
    source_id = f"movielens/rating/{row.text('movieId')}"
    return Entry(row, row.user("userId"), "movie_rating", source_id, _film_of(row, films), stars, _moment(row), STARS)


def _film_of(row: DataRow, films: dict[str, str]) -> str:
    if (film := films.get(row.text("movieId"))) is None:
        raise row.bad("field 'movieId' is not a film of movies.csv")
    return film


def _stars(text: str) -> str:
    """Raises ValueError for an invalid rating."""
    rating = float(text)
    if not 0.5 <= rating <= 5:
        raise ValueError
    return str(math.ceil(rating))


def _moment(row: DataRow) -> dates.DateBounds:
    return row.read("timestamp", lambda text: dates.instant(datetime.fromtimestamp(int(text), UTC)), "seconds since 1970")
