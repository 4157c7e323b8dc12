from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.support.small_datasets import paper, questions, reading, write_jsonl
from traffic.datasets.authored_texts import ArxivAuthors
from traffic.datasets.catalog import FORMATS, open_dataset
from traffic.datasets.events import Events
from traffic.datasets.files import BadData


def test_the_format_of_a_folder_follows_from_the_content_of_its_files(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "b.jsonl", [paper("Ann", 1, "2007-01-01")])
    assert open_dataset(tmp_path) == open_dataset(file) == reading(ArxivAuthors, file)


def test_events_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / name, [{"type": "retouch.query.v1", "data": {}}]) for name in ("1.jsonl", "2.jsonl")]
    assert open_dataset(tmp_path) == reading(Events, *files)
    assert open_dataset(files[0], "events") == reading(Events, files[0])


def test_a_folder_of_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(BadData) as caught:
        open_dataset(tmp_path)
    assert all(f"{name}: " in str(caught.value) for name in FORMATS)


def test_all_files_of_a_folder_are_read(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / f"{author}.jsonl", [paper(author, number, "2007-01-01") for number in (1, 2)]) for author in "ab"]
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(paper("c", 1, "2007-01-01")).encode()))
    assert open_dataset(tmp_path) == reading(ArxivAuthors, *files, packed)
    assert len(list(open_dataset(tmp_path).steps("t"))) == 5


def test_an_id_in_two_files_is_refused_with_both_places(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, [paper("Ann", 1, "2007-01-01")])
    with pytest.raises(BadData, match=r"b\.jsonl:1: this row's id, for the same user, occurs twice.*a\.jsonl:1"):
        list(open_dataset(tmp_path).steps("t"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("other.jsonl", '{"user_id":\n', r"other\.jsonl:1: not JSON"),
        ("other.jsonl", '{"unrelated": 1}\n', r"other\.jsonl:1: the fields of this row fit no format; looked for"),
        ("other.jsonl", '{"type": "x", "data": {}}\n', r"b\.jsonl is arxiv, other\.jsonl is events; name one file, or move the others away"),
        ("other.jsonl", "", r"other\.jsonl: empty"),
        ("other.jsonl.xz", "\xfd7zXZ\0", r"other\.jsonl\.xz"),
        ("other.json", "[1]", r"other\.json:1: a JSON list; expected"),
        ("other.csv", "a,b\n", r"other\.csv: CSV of an unknown format"),
        ("dev_questions.json", "[]", r": b\.jsonl: not a file of LaMP's pair of dev_questions\.json, and its name looks like data"),
        ("tags.csv", "a,b\n", r": movies\.csv, ratings\.csv: expected one file of that name"),
    ],
)
def test_a_file_that_looks_like_data_is_never_left_out(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_jsonl(tmp_path / "b.jsonl", [paper("Ann", 1, "2007-01-01")])
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(BadData, match=message):
        open_dataset(tmp_path)
    with pytest.raises(BadData, match=r"other|looks like data|no data"):
        open_dataset(tmp_path, "arxiv" if name.startswith("other") else "lamp")


def test_the_other_files_of_a_folder_are_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", [paper("Ann", 1, "2007-01-01")])
    for name in ("README.md", ".hidden.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    assert open_dataset(tmp_path).not_read == (".hidden.jsonl", "README.md", "notes.txt", "sub")


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("gone", "auto", "no such file"),
        ("", "csv", "no such format; expected auto or one of lamp"),
        ("", "lamp", "no data that can be read; looked for lamp: .*There is nothing"),
    ],
)
def test_a_wrong_path_or_format_is_an_error(tmp_path: Path, path: str, format: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        open_dataset(tmp_path / path, format)


def test_how_many_entries_are_questions_can_be_chosen(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "b.jsonl", [paper("Ann", number, f"200{number}-01-01") for number in range(6)])
    assert [len(questions(open_dataset(file, last=last).steps("t"))) for last in (1, 4)] == [1, 4]


def test_a_data_set_with_marked_questions_takes_no_number_of_questions(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "1.jsonl", [{"type": "retouch.query.v1", "data": {}}])
    with pytest.raises(BadData, match=r"last=4: .* names its questions itself"):
        open_dataset(file, last=4)
