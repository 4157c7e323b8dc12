from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.errors import CannotContinue
from infra.kafka.contract_check import CONFLICT, MISPLACED, NO_EVENT, NO_OBJECT, PLACES, REPEAT, WRONG_KEY, ContractCheck, Severity, check_lines, topic_named
from infra.kafka.forwarding import FORWARDED_FROM, Forwarder, partition_of
from infra.settings import load
from schemas.envelope import envelope_headers
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.topics import QUERIES
from tests.support.worker_messages import make_query

SECRET_TEXT = "a text that no report may hold"


def record(query: Query, **fields: object) -> ConsumedRecord:
    headers = tuple(envelope_headers(query, id=query.query_id, source="/test"))
    made = ConsumedRecord(QUERIES.name, partition_of(query.key, 4), 0, 0, query.key, query.to_bytes(), headers)
    return replace(made, **fields)  # type: ignore[arg-type]


def checked(*records: ConsumedRecord) -> ContractCheck:
    check = ContractCheck(Forwarder(lambda topic: 4))
    for number, each in enumerate(records):
        check.add(f"queries/0/{number}", each, Query)
    return check


def test_records_as_documented_have_no_findings() -> None:
    check = checked(*(record(make_query(number)) for number in range(3)))
    assert (check.records, check.refused, check.findings) == (3, 0, [])


def test_refused_records_are_counted_by_reason_with_their_first_places() -> None:
    broken = record(make_query(0, text=SECRET_TEXT), value=json.dumps({"text": SECRET_TEXT}).encode())
    check = checked(*[broken] * (PLACES + 2), record(make_query(1), headers=()))
    assert check.refused == check.records == PLACES + 3
    first, second = check.findings
    assert (first.count, first.first) == (PLACES + 2, [f"queries/0/{number}" for number in range(PLACES)])
    assert first.severity is second.severity is Severity.REFUSED
    assert "query_id: missing" in first.reason and "header ce_id is missing" in second.reason
    assert SECRET_TEXT not in str(check)


def test_what_is_handled_although_it_differs_is_noted() -> None:
    query, other = make_query(1), make_query(2)
    elsewhere = (partition_of(query.key, 4) + 1) % 4
    check = checked(record(query, key=b"ada", partition=elsewhere), record(query), record(other, key=None))
    assert {finding.reason: finding.count for finding in check.findings} == {WRONG_KEY: 2, MISPLACED: 1, REPEAT: 1}
    assert check.refused == 0


def test_another_content_under_one_id_is_refused() -> None:
    query = make_query(1)
    (finding,) = checked(record(query), record(query.model_copy(update={"text": SECRET_TEXT}))).findings
    assert (finding.reason, finding.severity) == (CONFLICT, Severity.REFUSED)


def test_a_forwarded_copy_is_no_repeat_of_its_original() -> None:
    query = make_query(1)
    original = record(query, partition=(partition_of(query.key, 4) + 1) % 4)
    copy = replace(record(query), headers=(*original.headers, (FORWARDED_FROM, b"1/0")))
    assert [finding.reason for finding in checked(original, copy).findings] == [MISPLACED]


@pytest.mark.parametrize("structured", [True, False])
def test_a_file_of_events_or_of_messages_is_checked_by_line(structured: bool) -> None:
    queries = [make_query(number) for number in range(2)]
    lines = [query.model_dump(mode="json") for query in queries]
    if structured:
        event = {"specversion": "1.0", "source": "/test", "type": Query.ce_type(), "datacontenttype": "application/json"}
        lines = [event | {"id": str(number), "data": line} for number, line in enumerate(lines)]
    texts = [*map(json.dumps, lines), "", "{", json.dumps(lines[0])]
    check = check_lines(enumerate(map(str.encode, texts), 1), None if structured else QUERIES)
    assert (check.records, check.refused) == (4, 1)
    assert {tuple(finding.first) for finding in check.findings} == {("line 4",), ("line 5",)}


def test_messages_alone_need_their_topic() -> None:
    (finding,) = check_lines([(1, make_query(1).model_dump_json().encode())], None).findings
    assert (finding.reason, finding.first) == (NO_EVENT, ["line 1"])


@pytest.mark.parametrize("line", [b"[]", b"a,b", b"\xff\xfe\x00", b"null"])
def test_a_line_that_is_no_object_is_refused_as_that(line: bytes) -> None:
    (finding,) = check_lines([(1, line)], None).findings
    assert (finding.reason, finding.first) == (NO_OBJECT, ["line 1"])


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl.gz"
    path.write_bytes(gzip.compress(make_query(1).model_dump_json().encode() + b"\n\xff\n"))
    result = CliRunner().invoke(app, ["schemas", "validate", str(path), "--topic", "queries", "--json"])
    report = json.loads(result.stdout)
    assert (report["records"], report["refused"], report["findings"][0]["first"]) == (2, 1, ["line 2"])


VALIDATE = [sys.executable, "-c", "from cli.app import main; main()", "schemas", "validate"]


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input_is_read_from_a_pipe(name: str, compress: Callable[[bytes], bytes]) -> None:
    lines = b"\xef\xbb\xbf" + make_query(1).model_dump_json().encode() + b"\r\n\n{}\n"
    ended = subprocess.run([*VALIDATE, name, "--topic", "queries", "--json"], input=compress(lines), capture_output=True, check=False)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["records"], report["refused"], report["findings"][0]["first"]) == (1, 2, 1, ["line 3"])


def test_a_pipe_that_cannot_be_checked_is_named() -> None:
    compressed = gzip.compress(make_query(1).model_dump_json().encode() * 100)
    for name, given, problem in (
        ("-", b"", b"-: holds no record; write JSON Lines of messages"),
        ("/dev/stdin", b"\n\n", b"/dev/stdin: holds no record; write JSON Lines"),
        ("-", compressed[:60], b"-: cannot be read: Compressed file ended before"),
    ):
        ended = subprocess.run([*VALIDATE, name, "--topic", "queries"], input=given, capture_output=True, check=False)
        assert ended.returncode == 2 and problem in ended.stderr and ended.stderr.count(b"\n") == 1, ended.stderr


def test_standard_input_that_is_a_file_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(make_query(1).model_dump_json() + "\n")
    with path.open("rb") as file:
        ended = subprocess.run([*VALIDATE, "-", "--topic", "queries"], stdin=file, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"1 records, 0 refused\n"), ended.stderr


def test_a_file_that_cannot_be_checked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic.datasets.files.MAX_ROW_BYTES", 1 << 20)
    compressed, long = tmp_path / "queries.jsonl", tmp_path / "long.jsonl"
    compressed.write_bytes(gzip.compress(b"{}\n"))
    long.write_bytes(b"{}\n" + b" " * (1 << 20) + b"{}\n")
    for path, problem in (
        (compressed, f"{compressed}: the content is gzip-compressed; rename it to queries.jsonl.gz"),
        (long, f"{long}:2: a line of more than 1 MiB; expected one row a line, ended by a line feed"),
        (tmp_path, f"{tmp_path}: cannot be read: Is a directory"),
    ):
        result = CliRunner().invoke(app, ["schemas", "validate", str(path), "--topic", "queries"])
        assert result.exit_code == 2 and problem in result.stderr


def test_the_topic_of_messages_is_for_a_file() -> None:
    result = CliRunner().invoke(app, ["schemas", "validate", "queries", "--topic", "feedback"])
    assert result.exit_code == 2 and "--topic feedback is for a file, and there is no file queries" in result.stderr


def test_a_topic_has_its_declared_name_or_that_of_the_broker() -> None:
    settings = load(kafka={"topic_prefix": "team."})
    assert topic_named("team.queries", settings) is topic_named("queries", settings) is QUERIES
    with pytest.raises(CannotContinue, match="quries is neither a file nor a topic: the topics are interactions, queries, "):
        topic_named("quries", settings)


def test_the_command_prints_reasons_and_fails_for_refused_records(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(make_query(1).model_dump_json() + "\n")
    good = CliRunner().invoke(app, ["schemas", "validate", str(path), "--topic", "queries"])
    assert (good.exit_code, good.stdout) == (0, "1 records, 0 refused\n")
    path.write_text("{}\n")
    bad = CliRunner().invoke(app, ["schemas", "validate", str(path), "--topic", "queries", "--json"])
    report = json.loads(bad.stdout)
    assert bad.exit_code == 1 and (report["records"], report["refused"]) == (1, 1)
    assert report["findings"][0]["first"] == ["line 1"]
