"""MovieLens: tags and ratings that users gave to films.

A tag counts if it is one of LaMP-2's 15 labels (domain `movie_tag`). Other tags are skipped.
Ratings of 0.5 to 5 become whole stars, halves upwards, so that LaMP-3's metrics apply (domain `movie_rating`).
There are no plot texts: a film is its title and genres.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import ClassVar, Self

from schemas.tasks import MOVIE_TAGS, STARS, choose_option
from traffic.datasets import dates
from traffic.datasets.csv_files import csv_rows
from traffic.datasets.files import BadData, DataFile, GivenFiles, shown
from traffic.datasets.rows import DataRow, FirstPlaces
from traffic.datasets.steps import ReadCounts, Step
from traffic.datasets.timelines import Entry, latest_as_questions

_FILES = ("movies.csv", "ratings.csv", "tags.csv")
#: Files of the public sets that nothing here needs.
_NOT_NEEDED = ("links.csv", "genome-scores.csv", "genome-tags.csv")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class MovieLens:
    """Each user's latest `last` tags, and latest `last` ratings, are questions."""

    LOOKS_FOR: ClassVar = f"{', '.join(_FILES)} in one folder"
    title: ClassVar = "MovieLens tags and ratings"

    movies: DataFile
    ratings: DataFile
    tags: DataFile
    not_read: tuple[str, ...] = ()
    last: int = 3

    @classmethod
    def at(cls, given: GivenFiles) -> Self | None:
        used = {name: [file for file in given.files if file.plain_name == name] for name in _FILES}
        if not any(used.values()):
            return None
        if wrong := [name for name, files in used.items() if len(files) != 1]:
            raise BadData(f"{shown(given.path)}: {', '.join(wrong)}: expected one file of that name; looked for {cls.LOOKS_FOR}")
        movies, ratings, tags = (used[name][0] for name in _FILES)
        not_needed = [file for file in given.files if file.plain_name in _NOT_NEEDED]
        given.only([movies, ratings, tags, *not_needed], cls.title)
        return cls(movies, ratings, tags, (*(file.path.name for file in not_needed), *given.not_read))

    def steps(self, tenant: str, counts: ReadCounts | None = None) -> Iterator[Step]:
        counts = counts or ReadCounts()
        return latest_as_questions(self._entries(counts), self.last, tenant, counts)

    def _entries(self, counts: ReadCounts) -> Iterator[Entry]:
        films = self._films()
        return chain(self._tags(films, counts), self._ratings(films))

    def _films(self) -> dict[str, str]:
        films: dict[str, str] = {}
        places = FirstPlaces("the movieId")
        for row in csv_rows(self.movies, ("movieId", "title", "genres")):
            film = row.text("movieId", filled=True)
            places.take(film, row.place)
            films[film] = f"{row.text('title', filled=True)}. {row.text('genres').replace('|', ', ')}"
        return films

    def _tags(self, films: dict[str, str], counts: ReadCounts) -> Iterator[Entry]:
        for row in csv_rows(self.tags, ("userId", "movieId", "tag", "timestamp")):
            user, film, at, label = row.user("userId"), _film_of(row, films), _moment(row), choose_option(row.text("tag"), MOVIE_TAGS)
            if label is not None:
                source_id = f"movielens/tag/{row.text('movieId')}/{row.text('tag')}"
                yield Entry(row.place, user, "movie_tag", source_id, film, label, at, MOVIE_TAGS)
            else:
                counts.skipped["tag that is not one of LaMP-2's labels"] += 1

    def _ratings(self, films: dict[str, str]) -> Iterator[Entry]:
        for row in csv_rows(self.ratings, ("userId", "movieId", "rating", "timestamp")):
            stars = row.read("rating", _stars, "a rating of 0.5 to 5 in halves")
            source_id = f"movielens/rating/{row.text('movieId')}"
            yield Entry(row.place, row.user("userId"), "movie_rating", source_id, _film_of(row, films), stars, _moment(row), STARS)


def _film_of(row: DataRow, films: dict[str, str]) -> str:
    if (film := films.get(row.text("movieId"))) is None:
        raise row.bad("field 'movieId' is not a film of movies.csv")
    return film


def _stars(text: str) -> str:
    """Raises ValueError for an invalid rating."""
    rating = float(text)
    if not 0.5 <= rating <= 5 or rating * 2 % 1:
        raise ValueError
    return str(math.ceil(rating))


def _moment(row: DataRow) -> dates.DateBounds:
    return row.read("timestamp", _seconds, "seconds since 1970")


def _seconds(text: str) -> dates.DateBounds:
    """Raises ValueError for another text, and OverflowError for a time after the year 9999."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError
    return dates.instant(_EPOCH + timedelta(seconds=int(text)))
