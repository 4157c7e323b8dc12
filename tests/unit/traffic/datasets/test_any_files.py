"""Any files end in steps that account for every row, or in BadData. The files are good ones of every format, changed at random."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.small_datasets import interactions, paper, questions, reading
from traffic.datasets.authored_texts import ArxivAuthors, HuffPostAuthors
from traffic.datasets.catalog import open_dataset
from traffic.datasets.events import Events
from traffic.datasets.files import BadData, shown
from traffic.datasets.global_opinions import GlobalOpinions
from traffic.datasets.lamp import Lamp
from traffic.datasets.movielens import MovieLens
from traffic.datasets.stackexchange import StackExchangePosts
from traffic.datasets.steps import Dataset, ReadCounts, Step, to_lines

Files = dict[str, bytes]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _lamp(users: list[str | None], indent: int | None) -> Files:
    asked = "Generate a title for the following abstract of a paper: About it."
    rows: list[dict[str, Any]] = []
    for number, user in enumerate(users):
        items = [{"id": f"{n}", "title": f"Títle {n}", "abstract": f"a {n}"} | ({"date": f"200{n}-01-02"} if user else {}) for n in range(number + 1)]
        rows.append({"id": f"9{number}", "input": asked, "profile": items} | ({"user_id": user} if user else {}))
    outputs = {"task": "LaMP_5", "golds": [{"id": row["id"], "output": "own"} for row in rows]}
    return {"dev_questions.json": json.dumps(rows, indent=indent).encode(), "dev_outputs.json": json.dumps(outputs, indent=indent).encode()}


def _posts() -> list[dict[str, Any]]:
    posts = [
        {
            "Id": str(n),
            "PostTypeId": "1",
            "CreationDate": f"2014-01-21T20:26:0{n}.383",
            "OwnerUserId": "7",
            "Title": f"Why {n}?",
            "Tags": "<hops>",
            "Body": "<p>x</p>",
        }
        for n in range(3)
    ]
    return [*posts, {**posts[0], "Id": "9", "PostTypeId": "2"}, {**posts[1], "Id": "8", "Tags": "|ipa|hops|", "OwnerUserId": None}]


def _events() -> bytes:
    """The papers as events."""
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "papers.jsonl").write_bytes(_jsonl([paper("Ann", n, f"2007-01-0{n}") for n in (1, 2, 3)]))
        return "".join(f"{line}\n" for step in reading(ArxivAuthors, path).steps("t") for line in to_lines(step)).encode()


GOOD: dict[str, Files] = {
    "arxiv": {f"{user}.jsonl": _jsonl([paper(user, n, f"2007-01-0{n}") for n in (1, 2, 3)]) for user in ("Ann", "Bøb")},
    "huffpost": {
        "articles.jsonl": _jsonl(
            [{"authors": "Lee", "headline": f"H {n}", "short_description": "", "link": f"l/{n}", "date": f"2018-05-0{n}"} for n in (1, 2, 3)]
        )
    },
    "stackexchange": {"posts.jsonl": _jsonl(_posts())},
    "events": {"events.jsonl": _events()},
    "movielens": {
        "movies.csv": b'movieId,title,genres\n1,"Alien, The (1979)",Horror|Sci-Fi\n2,Up (2009),(no genres listed)\n',
        "tags.csv": b"userId,movieId,tag,timestamp\n7,1,Sci-Fi,100\n7,1,pretty,150\n7,2,romance,200\n",
        "ratings.csv": b"userId,movieId,rating,timestamp\r\n7,1,0.5,100\r\n7,2,3.5,100\r\n8,2,5.0,300\r\n",
    },
    "goqa": {
        "global_opinions.csv": b"""question,selections,options,source
"Is it, or
not?","defaultdict(<class 'list'>, {'Ghana': [0.5, 0.5], 'India (Old national sample)': [0, 1]})","['Yes', 'No']",GAS
,"defaultdict(<class 'list'>, {})",[],GAS
"Is ""it"" good?","defaultdict(<class 'list'>, {'Ghana': [0.2, 0.5, 0.3], 'Peru': [1]})","['Yes', 'No', 'DK']",WVS
"""
    },
    "lamp, user split": _lamp([None, None, None], indent=1),
    "lamp, time split": _lamp(["ann", "ann", "bob"], indent=None),
}
#: Texts that take the place of a value, or go between two bytes.
BITS = [
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b",", b"{", b"}", b"[", b"]", b" ", b"\xe2\x80\xa8"),
    *(b"null", b"true", b"NaN", b"1e999", b"-Infinity", b"[]", b"{}", b"1", b"7", b"2007", b"0.1", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000),
    *(b'""', b'" "', b'"\\ud800"', b'"\\u0000"', b'"\xcc\x81"', b'"a/b"', b'"1"', b'"2"', b'"Ann"', b'"<![x[y]]>"', b'"user_id": "u",', b'{"id": "1"},'),
    *(b'"0000"', b'"10000-01-01"', b'"0001-01-01T00:00:00+14:00"', b'"9999-12-31"'),
]
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|[0-9][0-9.]*')


class Change(NamedTuple):
    """`number` chooses the file, the place in it and the bit. One number takes hypothesis a third of the time of three."""

    kind: str
    number: int


CHANGES = st.builds(
    Change,
    st.sampled_from(
        [
            *(5 * ["flip", "replace", "take another value"]),
            *(2 * ["insert", "cut", "drop line", "double line", "swap lines", "CRLF", "gzip as .gz", "rename", "copy"]),
            *("BOM", "UTF-16", "Latin-1", "gzip", "cut .gz", "delete", "empty", "folder", "link", "pipe"),
        ]
    ),
    st.integers(0, 3 * len(BITS) * 2000),
)
NAMES = [
    "a.json",
    "b.JSONL",
    ".jsonl",
    "x.txt",
    "p\udcff.jsonl",
    "dev_outputs.json",
    "links.csv",
    "tags.csv.gz",
    "c.jsonl.xz",
    "a\nb.jsonl",
    "test_questions.json",
]


def _apply(files: Files, change: Change) -> None:
    """Bytes that begin with `!` stand for something that is no file."""
    number, file = divmod(change.number, 3)
    number, bit = divmod(number, len(BITS))
    name = sorted(files)[file % len(files)]
    content = files[name]
    at, lines = number % (len(content) + 1), content.splitlines(keepends=True)
    line = number % max(1, len(lines))
    values = list(_VALUE.finditer(content))
    value, other = (values[at % len(values)] if values else None for at in (number, number // 7))
    changed: dict[str, Callable[[], bytes]] = {
        "flip": lambda: content[:at] + bytes(byte ^ (1 << number % 8) for byte in content[at : at + 1]) + content[at + 1 :],
        "insert": lambda: content[:at] + BITS[bit] + content[at:],
        "replace": lambda: content[: value.start()] + BITS[bit] + content[value.end() :] if value else content,
        "take another value": lambda: content[: value.start()] + other[0] + content[value.end() :] if value and other else content,
        "cut": lambda: content[:at],
        "drop line": lambda: b"".join(lines[:line] + lines[line + 1 :]),
        "double line": lambda: b"".join(lines[: line + 1] + lines[line:]),
        "swap lines": lambda: b"".join(lines[line:] + lines[:line]),
        "BOM": lambda: b"\xef\xbb\xbf" + content,
        "UTF-16": lambda: content.decode("latin-1").encode("utf-16" if number % 2 else "utf-16-be"),
        "CRLF": lambda: content.replace(b"\n", b"\r\n"),
        "Latin-1": lambda: content.decode("utf-8", "replace").encode("latin-1", "replace"),
        "gzip": lambda: gzip.compress(content, 1),
        "empty": lambda: b"",
        "folder": lambda: b"!folder",
        "link": lambda: b"!link",
        "pipe": lambda: b"!pipe",
    }
    if change.kind in changed:
        files[name] = changed[change.kind]()
    elif change.kind == "delete":
        del files[name]
    elif change.kind == "copy":
        files[NAMES[number % len(NAMES)]] = content
    else:
        del files[name]
        packed = gzip.compress(content, 1)
        files[NAMES[number % len(NAMES)] if change.kind == "rename" else f"{name}.gz"] = {
            "rename": content,
            "gzip as .gz": packed,
            "cut .gz": packed[: number % len(packed)],
        }[change.kind]


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        if content == b"!folder":
            path.mkdir()
        elif content == b"!link":
            path.symlink_to(name)
        elif content == b"!pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(content)


def _rows(path: Path) -> list[bytes]:
    """Lines that are not blank, by other means than the reader's."""
    content = gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
    return [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(b" \t\r")]


def _check_all_accounted(dataset: Dataset, steps: list[Step], counts: ReadCounts) -> None:
    """The rows read and skipped are those that were given."""
    asked, known, skipped = questions(steps), interactions(steps), counts.skipped.total()
    if isinstance(dataset, Lamp):
        rows = json.loads(b"\n".join(_rows(dataset.questions.path)))
        assert len(rows) == len(asked)
        assert sum(len(row["profile"]) for row in rows) == len(known) + skipped
        if dataset.outputs:
            outputs = json.loads(b"\n".join(_rows(dataset.outputs.path)))
            assert len(outputs["golds"]) == len(asked) == sum(question.truth is not None for question in asked)
    elif isinstance(dataset, MovieLens):
        assert len(_rows(dataset.tags.path)) + len(_rows(dataset.ratings.path)) - 2 == len(steps) + skipped
    elif isinstance(dataset, GlobalOpinions):  # a row has several countries, or is skipped once
        text = b"\n".join(_rows(dataset.file.path)).decode()
        assert len(list(csv.DictReader(io.StringIO(text)))) <= len(steps) + skipped
    else:
        assert isinstance(dataset, Events | ArxivAuthors | HuffPostAuthors | StackExchangePosts)
        rows = [row for file in dataset.files for row in _rows(file.path)]
        if isinstance(dataset, StackExchangePosts):
            both = 2 * sum(json.loads(row)["PostTypeId"] in (1, "1") and json.loads(row).get("OwnerUserId") is not None for row in rows)
            assert len(steps) == both and skipped == len(rows) - both // 2
        elif isinstance(dataset, Events):
            assert len(rows) == len(steps) + sum(len(question.feedback) for question in asked)
        else:
            assert len(rows) == len(steps)
    assert len({step.interaction_id for step in known} | {question.query.query_id for question in asked}) == len(steps)


def _check_no_file_left_out(folder: Path, dataset: Dataset) -> None:
    if isinstance(dataset, Lamp):
        used = {file.path.name for file in (dataset.questions, dataset.outputs) if file}
    elif isinstance(dataset, MovieLens):
        used = {file.path.name for file in (dataset.movies, dataset.ratings, dataset.tags)}
    elif isinstance(dataset, GlobalOpinions):
        used = {dataset.file.path.name}
    else:
        assert isinstance(dataset, Events | ArxivAuthors | HuffPostAuthors | StackExchangePosts)
        used = {file.path.name for file in dataset.files}
    assert used | {*dataset.not_read} == {path.name for path in folder.iterdir()}


def _check_reads_back(folder: Path, steps: list[Step]) -> None:
    (path := folder / "converted.jsonl").write_text("".join(f"{line}\n" for step in steps for line in to_lines(step)), encoding="utf-8")
    again = list(reading(Events, path).steps("t"))
    assert interactions(again) == interactions(steps)
    assert sorted(questions(again), key=lambda question: question.query.query_id) == sorted(questions(steps), key=lambda question: question.query.query_id)


@pytest.mark.timeout(600)  # a bound for a busy machine: it takes 10 s
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(sorted(GOOD)), st.lists(CHANGES, min_size=0, max_size=3))
def test_any_files_become_steps_that_account_for_every_row_or_bad_data(tmp_path: Path, format: str, changes: list[Change]) -> None:
    for path in tmp_path.iterdir():
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
    files = dict(GOOD[format])
    for change in changes:
        if files:
            _apply(files, change)
    _write(tmp_path, files)
    counts = ReadCounts()
    refused = ""
    try:
        dataset = open_dataset(tmp_path)
        steps = list(dataset.steps("t", counts))
    except BadData as error:
        refused = str(error)
    if refused:
        assert changes and refused.startswith(shown(tmp_path)) and "\n" not in refused
        return
    _check_no_file_left_out(tmp_path, dataset)
    _check_all_accounted(dataset, steps, counts)
    _check_reads_back(tmp_path, steps)
