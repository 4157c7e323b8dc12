"""`retouch dlq` before it connects: errors of usage, and the output of dead letters."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.dlq_actions import _declared, parse_time
from cli.dlq_output import END_MS, detail, encoded, summary, time_text
from infra.errors import BadSetting
from infra.kafka.dead_letters import RecordId, RedriveRecord, parse_dead_letter
from infra.kafka.names import KafkaNames
from infra.process.command_output import printable
from infra.settings.stream import KafkaSettings
from schemas.dead_letters import dead_letter
from schemas.records import ConsumedRecord

NAMES = KafkaNames(KafkaSettings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redrive"], "--all"),
        (["redrive", "--limit", "3"], "--all"),
        (["redrive", "a-dlt/0/1", "--topic", "a"], "exclude each other"),
        (["redrive", "a-dlt/0/1", "--all"], "exclude each other"),
        (["redrive", "nonsense"], "TOPIC-dlt/PARTITION/OFFSET"),
        (["show", "a-dlt/x/1"], "TOPIC-dlt/PARTITION/OFFSET"),
        (["list", "--since", "yesterday"], "--since 'yesterday'"),
        (["list", "--until", "2026-11-20T12:00:00"], "with a zone"),
        (["list", "--since", "1h", "--until", "2h"], "--since must be before --until"),
        (["list"], "retouch up"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["dlq", *arguments])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["list", "--limit", "-1"], ["redrive", "--all", "--limit", "0"], ["show"]])
def test_impossible_options_exit_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["dlq", *arguments]).exit_code == 2


def test_times_are_parsed() -> None:
    assert parse_time("--since", "1970-01-01T00:00:01Z") == parse_time("--since", "1970-01-01T01:00:01+01:00") == 1000
    ago = parse_time("--since", "2h")
    assert ago is not None and ago < datetime.now(UTC).timestamp() * 1000 - 7_199_000
    assert parse_time("--since", None) is None


@pytest.mark.parametrize("text", ["", "2w", "h", "-1h", "999999d", "9999999h", "1970-01-01"])
def test_impossible_times_are_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="must be ISO 8601 with a zone"):
        parse_time("--until", text)


def test_a_summary_holds_no_text_of_users() -> None:
    written = dead_letter(ConsumedRecord("queries", 1, 2, 3, b"tenant/ada", b"secret", [("h", b"private")]), "g", ValueError("bad shape"))
    stored = parse_dead_letter(RecordId("queries-dlt", 0, 9), 1000, written.key, written.value, written.headers)
    shown = summary(stored, {"queries-dlt/0/9": RedriveRecord(1000, 2000, RecordId("queries", 1, 77))}, NAMES)
    assert not any(word in str(shown) for word in ("ada", "secret", "private"))
    assert (shown["set_aside_at"], shown["redriven_at"], shown["sent_as"]) == ("1970-01-01T00:00:01.000+00:00", "1970-01-01T00:00:02.000+00:00", "queries/1/77")
    whole = detail(stored, {}, NAMES)
    assert whole["original_headers"] == [{"name": "h", "encoding": "utf-8", "content": "private"}]
    assert [h["content"] for h in whole["dead_letter_headers"]] == ["queries", 1, 2, 3, "g", "builtins.ValueError", "bad shape"]


def test_a_summary_has_the_names_of_the_broker() -> None:
    written = dead_letter(ConsumedRecord("queries", 1, 2, 3, b"k", b"v", []), "retouch-base", ValueError("bad shape"))
    stored = parse_dead_letter(RecordId("queries-dlt", 0, 9), 1000, written.key, written.value, written.headers)
    redrives = {"queries-dlt/0/9": RedriveRecord(1000, 2000, RecordId("queries", 1, 77))}
    shown = summary(stored, redrives, KafkaNames(KafkaSettings(topic_prefix="team.", group_prefix="team-")))
    assert (shown["id"], shown["group"], shown["sent_as"]) == ("team.queries-dlt/0/9", "team-retouch-base", "team.queries/1/77")
    assert shown["original"] == {"topic": "team.queries", "partition": 1, "offset": 2}


@pytest.mark.parametrize("typed", ["team.queries-dlt", "queries-dlt"])
def test_a_topic_may_be_typed_as_the_broker_names_it(typed: str) -> None:
    assert _declared(typed, ["queries-dlt"], KafkaNames(KafkaSettings(topic_prefix="team."))) == "queries-dlt"


def test_a_foreign_dead_letter_with_null_headers_is_shown() -> None:
    whole = detail(parse_dead_letter(RecordId("a-dlt", 0, 0), -1, None, b"\xff", [("n", None)]), {}, NAMES)
    assert whole["original_headers"] == [{"name": "n", "encoding": None, "content": None}]
    assert (whole["key"], whole["value"], whole["set_aside_at"], whole["dead_letter_headers"]) == (None, encoded(b"\xff"), "unknown", [])


def test_control_characters_of_a_record_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mé\n\x9b\u202e") == "a\\x1b[31mé\n\\x9b\\u202e"


@pytest.mark.parametrize(
    ("unix_ms", "text"),
    [(0, "1970-01-01T00:00:00.000+00:00"), (END_MS - 1000, "9999-12-31T23:59:59.000+00:00"), (END_MS, "unknown"), (2**63 - 1, "unknown"), (-1, "unknown")],
)
def test_any_time_of_a_record_has_a_text(unix_ms: int, text: str) -> None:
    assert time_text(unix_ms) == text
