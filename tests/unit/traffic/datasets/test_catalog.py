from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.small_datasets import paper, questions, write_jsonl
from traffic.datasets.authored_texts import ArxivAuthors
from traffic.datasets.catalog import FORMATS, detect, open_dataset
from traffic.datasets.events import Events
from traffic.datasets.rows import BadData


def test_the_format_of_a_folder_follows_from_its_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"unrelated": 1}])
    file = write_jsonl(tmp_path / "b.jsonl", [paper("Ann", 1, "2007-01-01")])
    assert detect(tmp_path) == detect(file) == ArxivAuthors(file)


def test_events_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / name, [{"type": "retouch.query.v1", "data": {}}]) for name in ("1.jsonl", "2.jsonl")]
    assert detect(tmp_path) == Events(tuple(files))
    assert open_dataset(files[0], "events") == Events((files[0],))


def test_a_folder_of_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(BadData) as caught:
        detect(tmp_path)
    assert all(f"{name}: " in str(caught.value) for name in FORMATS)


@pytest.mark.parametrize(
    ("path", "format", "message"), [("gone", "auto", "no such file"), ("", "csv", "no such format; expected auto or one of lamp"), ("", "lamp", "not lamp")]
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
