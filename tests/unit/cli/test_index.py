"""`retouch index`: what is refused before any server is asked, and the text of a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.index_actions import _text
from streams.rebuild.rebuild import Report


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["index", *arguments])
    return result.exit_code, result.stderr


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [["rebuild"], ["alias", "live"]])
def test_an_embedded_index_is_refused_with_what_to_do_instead(command: list[str]) -> None:
    code, error = run(*command)
    assert code == 2 and error.count("\n") == 1
    assert "index.url: not set" in error and "no other process can open. Stop the process, remove " in error and "fills the index from the topic" in error


@pytest.mark.parametrize("command", [["rebuild", "--into", "a/b"], ["alias", "a/b"], ["alias", ""], ["alias", "live-profiles"]])
def test_a_name_that_no_collection_can_have_is_refused(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:1")
    code, error = run(*command)
    assert code == 2 and (f"--into {command[-1]!r}: " in error or f"NAME {command[-1]!r}: " in error)


def test_a_name_that_a_collection_can_have_is_tried_at_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:1")
    code, error = run("alias", "live")
    assert code == 1 and "cannot be reached" in error


def test_a_report_says_what_was_switched_and_left_out() -> None:
    text = _text(Report("live", "new", "old", points=7, digest="ab", left_out=["interactions/0/1-2"]))
    assert text.splitlines()[:2] == ["live leads to new, which has every point of old", "7 points, digest ab"]
    assert "left out, because old has them not: interactions/0/1-2" in text
    assert "it was switched before" in _text(Report("live", "new", "old"))
