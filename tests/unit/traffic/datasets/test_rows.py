from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from schemas.ids import Identifier
from tests.support.small_datasets import write_jsonl
from traffic.datasets import files
from traffic.datasets.files import BadData, DataFile
from traffic.datasets.rows import json_array, json_lines, user_id

OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers() | st.none(), max_size=3), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=OBJECTS, chunk=st.integers(1, 40), indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_a_list_read_in_pieces_is_the_list(tmp_path: Path, objects: list[dict[str, object]], chunk: int, indent: int | None, ascii_only: bool) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(objects, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_BYTES", chunk)
        assert [row.fields for row in json_array(DataFile(path))] == objects


def test_a_row_of_a_list_has_its_line_number(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[\n {"a": 1},\n\n {"a":\n 2}, {"a": 3}\n]')
    assert [row.place.line for row in json_array(DataFile(path))] == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', r":1: expected a JSON list"),
        ('[\n{"a": 1},\n{"a" 2}]', r":3: row 2: not JSON, or cut short"),
        ('[\n{"a": 1},\n{"a": ', r":3: row 2: not JSON, or cut short"),
        ('[\n{"a": 1}', r":2: after row 1: the file is cut short; expected a comma or \]"),
        ("[\n3]", r":2: row 1: found a number; expected an object"),
        ("", r":1: expected a JSON list"),
    ],
)
def test_a_broken_list_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(BadData, match=r"list\.json" + message):
        list(json_array(DataFile(path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r":2: not JSON"),
        (b'\n[1]\n', r":2: found a list; expected an object"),
        (b'{"a": "\xff"}\n', r":1: not UTF-8 at byte 8 of the line"),
    ],
)  # fmt: skip
def test_a_broken_line_names_its_number(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text)
    with pytest.raises(BadData, match=r"rows\.jsonl" + message):
        list(json_lines(DataFile(path)))


def test_errors_never_hold_the_value(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"date": "my secret", "title": ["my secret"]}\n')
    row = next(json_lines(DataFile(path)))
    for read in (lambda: row.moment("date"), lambda: row.text("title"), lambda: row.text("body")):
        with pytest.raises(BadData) as caught:
            read()
        assert "secret" not in str(caught.value)
        assert "rows.jsonl:1: field" in str(caught.value)


def test_an_id_that_is_fit_stays_as_it_is() -> None:
    assert user_id("Ryabko, Boris") == "Ryabko, Boris"


def test_unfit_ids_stay_apart() -> None:
    assert user_id("a/b").startswith("a_b~")
    assert len({user_id("a/b"), user_id("a\tb"), user_id("a_b"), user_id(" a b")}) == 4
    assert user_id("x" * 200) != user_id("x" * 201)


@given(st.text(min_size=1).filter(str.strip))
def test_every_id_becomes_an_identifier_and_always_the_same_one(raw: str) -> None:
    assert TypeAdapter(Identifier).validate_python(user_id(raw)) == user_id(raw)


def test_a_number_of_any_size_is_a_text_or_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"number": 10**4000}, {"number": 1e308}, {"number": -5}]
    assert [len(row.text("number")) for row in json_lines(DataFile(write_jsonl(tmp_path / "numbers.jsonl", rows)))] == [4001, 6, 2]
