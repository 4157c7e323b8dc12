"""Every file ends in its rows or in a BadData that names the file and the cause."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.small_datasets import interactions, paper, questions, write_jsonl, write_lamp
from traffic.datasets import files
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData, DataFile

PAPERS = [paper("Ann", number, f"2007-01-0{number}") for number in (1, 2, 3)]
TEXT = "".join(json.dumps(row) + "\n" for row in PAPERS).encode()


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same bytes in each process: they are part of a test's name


def _refusal(path: Path) -> str:
    with pytest.raises(BadData) as caught:
        list(open_dataset(path).steps("t"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("papers.jsonl", b"\xef\xbb\xbf" + TEXT),
        ("papers.jsonl", TEXT.replace(b"\n", b"\r\n")),
        ("papers.jsonl", TEXT.rstrip()),
        ("papers.jsonl", b"\n \n" + TEXT + b"\r\n"),
        ("papers.txt", TEXT),
        ("papers.JSONL.GZ", _gzip(TEXT)),
        ("papers.jsonl.gz", _gzip(b"\xef\xbb\xbf" + TEXT[:50]) + _gzip(TEXT[50:])),
        ("papers.jsonl", TEXT.replace(b"Abstract", "\u2028\u0085A\U0001f600".encode())),
    ],
    ids=["BOM", "CRLF", "no last line end", "blank lines", "another ending", "gzip", "gzip of two members", "Unicode line separators"],
)
def test_the_same_text_in_another_form_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    steps = list(open_dataset(tmp_path / name).steps("t"))
    assert (len(interactions(steps)), len(questions(steps))) == (1, 2)


def test_csv_and_lamp_files_may_be_compressed_and_have_a_byte_order_mark(tmp_path: Path) -> None:
    films = {"movies": "movieId,title,genres\n1,Up,Drama\n", "ratings": "userId,movieId,rating,timestamp\n7,1,4,1\n", "tags": "userId,movieId,tag,timestamp\n"}
    for name, text in films.items():
        (tmp_path / f"{name}.csv.gz").write_bytes(_gzip(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()))
    assert [step.content for step in interactions(open_dataset(tmp_path).steps("t"))] == ["Up. Drama"]
    row = {"id": "1", "input": "Generate a title. paper: A", "profile": [{"id": "2", "title": "T", "abstract": "B"}]}
    folder = write_lamp(tmp_path / "lamp", [row], "LaMP_5", {"1": "x"})
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(_gzip(b"\xef\xbb\xbf" + path.read_bytes()))
        path.unlink()
    assert [question.truth for question in questions(open_dataset(folder).steps("t"))] == ["x"]


def _zip(content: bytes) -> bytes:
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        archive.writestr(zipfile.ZipInfo("papers.jsonl"), content)
    return packed.getvalue()


def _tar(content: bytes) -> bytes:
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w") as archive:
        member = tarfile.TarInfo("papers.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("papers.jsonl", TEXT.decode().encode("utf-16"), "the content is UTF-16; expected UTF-8 text"),
        ("papers.jsonl", TEXT.decode().encode("utf-16-le"), "begins with NUL bytes, as UTF-16 does"),
        ("papers.jsonl", TEXT.decode().encode("utf-32"), "the content is UTF-32"),
        ("papers.jsonl", _gzip(TEXT), "the content is gzip-compressed; rename it to papers.jsonl.gz"),
        ("papers.jsonl.gz", TEXT, "the name ends in .gz, but the content is not gzip-compressed"),
        ("papers.jsonl.gz", _gzip(_gzip(TEXT)), "compressed twice"),
        ("papers.jsonl.gz", _gzip(TEXT)[:-12], "cannot be read: Compressed file ended"),
        ("papers.jsonl.gz", _gzip(TEXT)[:-8] + b"\0" * 8, "cannot be read: CRC check failed"),
        ("papers.jsonl.gz", _gzip(TEXT)[:30] + b"\xff" * 40, "cannot be read: "),
        ("papers.jsonl.gz", _gzip(_tar(TEXT)), "the content is a tar archive"),
        ("papers.jsonl", _tar(TEXT), "the content is a tar archive; unpack it"),
        ("papers.jsonl", _zip(TEXT), "the content is a zip archive"),
        ("papers.jsonl.xz", lzma.compress(TEXT), "the content is xz-compressed"),
        ("papers.jsonl.bz2", bz2.compress(TEXT), "the content is bzip2-compressed"),
        ("papers.jsonl", b"", "empty; expected rows"),
        ("papers.jsonl.gz", _gzip(b" \n"), "empty; expected rows"),
        ("papers.jsonl", TEXT.replace(b"\n", b"\r"), ":1: not JSON: Extra data: character 109; expected one object a line; a line ends with a line feed"),
        ("papers.jsonl", TEXT + b"[" * 100_000, ":4: not JSON: nested too deeply"),
        ("papers.jsonl", b'{"a":' * 100_000, ":1: not JSON: nested too deeply"),
        ("papers.jsonl", TEXT + b'{"n": ' + b"9" * 5_000 + b"}", ":4: not JSON: a number of too many digits"),
        ("papers.jsonl", TEXT + b'{"n": NaN}', ":4: not JSON: NaN is no JSON number"),
        ("papers.jsonl", TEXT + b'{"n": -Infinity}', ":4: not JSON: -Infinity is no JSON number"),
        ("papers.jsonl", TEXT + b'{"n": 1, "n": 2}', ":4: not JSON: the key 'n' occurs twice"),
        ("papers.jsonl", TEXT + b"\0" * 100, ":4: not JSON: Expecting value: character 1"),
        ("papers.jsonl", TEXT + b'{"title": "\xe9"}', ":4: not UTF-8 at byte 12 of the line"),
        ("papers.jsonl", TEXT.replace(b'"Ann"', b'"\\ud800"'), ":1: field 'user_id' holds half of a surrogate pair"),
        ("papers.jsonl", TEXT.replace(b"Title 2", b"\\udc00"), ":2: field 'title' holds half of a surrogate pair"),
        ("papers.jsonl", TEXT.replace(b'"Ann"', b"1e999"), ":1: field 'user_id' is a number too large to read; expected text"),
        ("papers.jsonl", TEXT.replace(b'"Ann"', b"true"), ":1: field 'user_id' is true or false; expected text"),
        ("papers.jsonl", TEXT.replace(b"Title 2", b"\\u200b\\ufeff"), ":2: field 'title' is empty"),
        ("papers.jsonl", TEXT.replace(b"2007-01-02", b"0000"), ":2: field 'date' is not a date"),
        ("papers.jsonl", TEXT.replace(b"2007-01-02", b"10000-01-01"), ":2: field 'date' is not a date"),
        ("papers.jsonl", TEXT.replace(b"2007-01-02", b"0001-01-01T00:00:00+14:00"), ":2: field 'date' is not a date"),
        ("papers.jsonl", TEXT + TEXT.splitlines()[1], ":4: this row's id, for the same user, occurs twice; expected it once. The first is at "),
        ("papers.jsonl", json.dumps(PAPERS).encode(), ":1: a JSON list; expected *_questions.json"),
        ("dev_questions.json", TEXT, ":1: expected a JSON list of objects"),
        ("dev_questions.json", b"[] ", "every profile is empty"),
        ("dev_questions.json", b'[{"id": "1", "profile": []}] []', ":1: text after the end of the JSON list"),
        ("dev_questions.json", b'[{"id": "1", "profile": []} {}]', ":1: after row 1: not JSON; expected a comma or ]"),
        ("dev_questions.json", b'[{"id": "1", "profile": []},]', ":1: row 2: not JSON, or cut short: Expecting value"),
        ("dev_questions.json", b'[{"a": ' + b"[" * 100_000, ":1: row 1: not JSON: nested too deeply"),
        ("dev_questions.json", b'[{"a": ' + b"9" * 5_000, ":1: row 1: not JSON: a number of too many digits"),
        ("dev_questions.json", b'[{"a": "' + b"\xc3\xa9" * 700_000 + b'\xff"}]', "not UTF-8 at byte 1400009"),
        ("ratings.csv", b"userId\n", "movies.csv, tags.csv: expected one file of that name; looked for movies.csv, ratings.csv"),
        ("links.csv", b"userId\n", "CSV of an unknown format; expected movies.csv, ratings.csv, tags.csv in one folder"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_with_its_cause(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = _refusal(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}") and cause in message.replace(f"{tmp_path / name}", "", 1)
    assert "Abstract" not in message, "an error never holds a text"


@pytest.mark.parametrize("inside", [False, True], ids=["as the path", "in a folder"])
@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("folder", "Is a directory|There is nothing"),
        ("dangling link", "No such file|a link to a file that does not exist"),
        ("link loop", "Too many levels of symbolic links"),
        ("pipe", "not a regular file"),
    ],
)
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, inside: bool, kind: str, cause: str) -> None:
    write_jsonl(tmp_path / "papers.jsonl", PAPERS) if inside else None
    path = tmp_path / "x.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("gone" if kind == "dangling link" else "x.jsonl")
    message = _refusal(tmp_path if inside else path)
    assert "x.jsonl" in message and any(one in message for one in cause.split("|"))


def test_a_path_that_the_system_refuses_is_named_with_the_cause(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "papers.jsonl", PAPERS)
    assert "File name too long" in _refusal(tmp_path / ("x" * 300))
    assert "Not a directory" in _refusal(tmp_path / "papers.jsonl" / "x")
    assert "no such file or folder" in _refusal(tmp_path / "gone.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user whom permissions stop, not root")
@pytest.mark.parametrize("name", ["", "papers.jsonl"])
def test_a_file_or_folder_without_permission_is_named_with_the_cause(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "papers.jsonl", PAPERS)
    (tmp_path / name).chmod(0)
    try:
        assert "Permission denied" in _refusal(tmp_path)
    finally:
        (tmp_path / name).chmod(0o700)


def test_a_file_name_that_is_not_utf_8_can_be_read_and_shown(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff\n.jsonl"))
    path.write_bytes(TEXT)
    assert len(questions(open_dataset(tmp_path).steps("t"))) == 2
    path.write_bytes(b"{")
    assert _refusal(path).startswith(f"{tmp_path}/p\\udcff\\n.jsonl:1: not JSON")


@pytest.mark.parametrize("change", ["written", "replaced", "deleted"])
def test_a_file_that_changes_between_two_readings_is_noticed(tmp_path: Path, change: str) -> None:
    path = write_jsonl(tmp_path / "papers.jsonl", PAPERS)
    dataset = open_dataset(path)
    if change == "written":
        write_jsonl(path, PAPERS[:2])
    elif change == "replaced":
        write_jsonl(tmp_path / "other", PAPERS[:2]).replace(path)
    else:
        path.unlink()
    with pytest.raises(BadData, match=r"papers\.jsonl: (the file changed while the data set was read|cannot be read: No such file)"):
        list(dataset.steps("t"))


def test_a_file_that_grows_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "papers.jsonl", PAPERS)
    lines = DataFile(path).lines()
    next(lines)
    with path.open("ab") as more:
        more.write(TEXT)
    with pytest.raises(BadData, match="changed while"):
        list(lines)


def test_a_row_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(files, "CHUNK_BYTES", 100)
    assert len(list(DataFile(write_jsonl(tmp_path / "papers.jsonl", PAPERS)).lines())) == 3
    long = {"a": "x" * 3000}
    with pytest.raises(BadData, match=r"rows\.jsonl:2: a line of more than"):
        list(DataFile(write_jsonl(tmp_path / "rows.jsonl", [{}, long])).lines())
    (tmp_path / "list.json").write_text(json.dumps([{}, long, {}]))
    with pytest.raises(BadData, match=r"list\.json:1: row 2 is not JSON, or longer than"):
        list(DataFile(tmp_path / "list.json").list_items())
    with pytest.raises(BadData, match=r"list\.json: more than"):
        DataFile(tmp_path / "list.json").text()
