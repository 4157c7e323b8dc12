from __future__ import annotations

from pathlib import Path

import pytest

from infra.process.lifecycle import MAX_REASON_CHARS, blocked_file, blocked_reason, report_blocked
from infra.settings import load


def test_a_blocked_process_publishes_why_until_it_makes_progress_again(tmp_path: Path) -> None:
    settings = load(ready_file=tmp_path / "base.ready")
    report_blocked(settings, None)
    assert not list(tmp_path.iterdir())
    report_blocked(settings, "the base endpoint answers 401 invalid_api_key")
    assert blocked_reason(tmp_path / "base.ready") == "the base endpoint answers 401 invalid_api_key"
    report_blocked(settings, "the base endpoint answers 402 insufficient_quota")
    assert blocked_reason(tmp_path / "base.ready") == "the base endpoint answers 402 insufficient_quota"
    report_blocked(settings, None)
    assert not list(tmp_path.iterdir())


def test_a_repeated_reason_writes_nothing(tmp_path: Path) -> None:
    settings = load(ready_file=tmp_path / "base.ready")
    report_blocked(settings, "no quota")
    before = blocked_file(tmp_path / "base.ready").stat()
    report_blocked(settings, "no quota")
    assert blocked_file(tmp_path / "base.ready").stat() == before


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("two\nlines \r\n of text", "two lines of text"),
        ("x" * 10_000, "x" * MAX_REASON_CHARS),
        ("half a pair: \ud83d", "half a pair: ?"),
        (" \n", None),
        ("", None),
    ],
)
def test_a_reason_is_one_line_of_limited_length(tmp_path: Path, reason: str, line: str | None) -> None:
    report_blocked(load(ready_file=tmp_path / "base.ready"), reason)
    assert blocked_reason(tmp_path / "base.ready") == line


def test_a_reason_without_a_place_to_store_it_raises_nothing(tmp_path: Path) -> None:
    report_blocked(load(), "no quota")
    report_blocked(load(ready_file=tmp_path / "missing" / "base.ready"), "no quota")
    assert not list(tmp_path.iterdir())
