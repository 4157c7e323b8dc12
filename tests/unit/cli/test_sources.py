"""`retouch sources check`, with the example of docs/sources.md."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app

PAGE = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's only block of this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    (tmp_path / "reviews.jsonl").write_text(block("json"), encoding="utf-8")
    file = tmp_path / "sources.toml"
    file.write_text(block("toml"), encoding="utf-8")
    return file


def check(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sources", "check", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def checked(*arguments: object) -> tuple[int, Any]:
    code, output, _ = check(*arguments, "--json")
    return code, json.loads(output)


def test_the_example_of_the_page_is_right(example: Path) -> None:
    code, output, _ = check(example)
    assert code == 0
    assert output.splitlines() == [
        "shop.reviews: shop.reviews (json) to interaction",
        "shop.questions: shop.questions (json) to query",
        "answers-rated: shop.reactions (json) to feedback",
    ]


def test_a_dry_run_of_the_pages_samples(example: Path) -> None:
    code, shown = checked(example, "--sample", example.parent / "reviews.jsonl", "--topic", "shop.reviews")
    assert code == 1
    assert (shown["mapped"], shown["skipped"], shown["failed"]) == (2, 1, 1)
    data = [result["messages"][0]["data"] for result in shown["results"][:2]]
    assert [(each["user"], each["content"], each["response"], each["occurred_at"]) for each in data] == [
        ("7", "Alien", "5", "2026-01-01T00:00:00Z"),
        ("7", "Up: 3D", "4", "2026-01-02T00:00:00Z"),
    ]
    failed = shown["results"][2]
    assert (failed["record"], failed["field"], failed["expression"]) == ("line 3", "occurred_at", "epoch_millis(value.written_at)")
    assert f"source {failed['source']}, {failed['field']}: {failed['reason']}; the expression is {failed['expression']}" in PAGE


def test_a_dry_run_as_text_names_lines_and_escapes_what_a_terminal_would_obey(example: Path) -> None:
    samples = example.parent / "odd.jsonl"
    samples.write_text('\n{"kind": "rewritten", "text": "a\\u001bb\\u009bc", "question_id": 1, "at": "2026-01-01T00:00:00Z"}\n{"kind": "other"}\nx\n')
    file = example.parent / "own.toml"
    file.write_text(
        block("toml").split("[[sources]]")[3].join(["[[sources]]", ""]).replace("record.headers['x-shop']", "'shop'").replace("record.key", "'ann'")
    )
    code, output, _ = check(file, "--sample", samples)
    assert code == 1
    lines = output.splitlines()
    assert lines[0].startswith("line 2: feedback {") and "\x1b" not in output and "\x9b" not in output
    assert lines[1:] == [
        "line 3: skipped",
        "line 4: does not map: source answers-rated: its value is no JSON: expected value at line 1 column 1",
        "shop.reactions: 3 records, 1 mapped, 1 skipped, 1 failed",
    ]


def test_a_compressed_sample_is_read_by_its_name(example: Path) -> None:
    compressed = example.parent / "reviews.jsonl.gz"
    compressed.write_bytes(gzip.compress((example.parent / "reviews.jsonl").read_bytes()))
    code, shown = checked(example, "--sample", compressed, "--topic", "shop.reviews")
    assert code == 1 and shown["records"] == 4
    unnamed = compressed.rename(example.parent / "compressed.jsonl")
    code, output, errors = check(example, "--sample", unnamed, "--topic", "shop.reviews")
    assert (code, output) == (2, "")
    assert f"{unnamed}: the content is gzip-compressed; rename it to compressed.jsonl.gz" in errors


def test_each_problem_of_a_file_is_a_line(example: Path) -> None:
    example.write_text(block("toml").replace("value.review_id", "review_id").replace("value.text", "value.", 1))
    code, output, errors = check(example)
    assert (code, output) == (2, "")
    assert [line.split(": ")[2] for line in errors.splitlines()] == ["sources[0].when", "sources[0].fields.interaction_id"]
    code, shown = checked(example)
    assert code == 2
    assert not shown["ok"] and len(shown["problems"]) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "sources.file is not set: name the TOML file of the sources in RETOUCH_SOURCES__FILE"),
        (["{file}", "--sample", "{samples}"], "the file reads several topics; name one of shop.reviews, shop.questions, shop.reactions with --topic"),
        (["{file}", "--topic", "shop.other"], "--topic shop.other: no source reads it"),
        (["{file}", "--sample", "/none.jsonl", "--topic", "shop.reviews"], "/none.jsonl: cannot be read: No such file"),
        (["/none.toml"], "/none.toml: cannot be read: No such file"),
    ],
)
def test_a_wrong_argument_is_refused(example: Path, arguments: list[str], problem: str) -> None:
    names = {"file": str(example), "samples": str(example.parent / "reviews.jsonl")}
    code, _, errors = check(*(argument.format(**names) for argument in arguments))
    assert code == 2
    assert problem in errors


def test_config_check_refuses_a_file_that_cannot_be_used(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_SOURCES__FILE", str(example))
    assert CliRunner().invoke(app, ["config", "check"]).exit_code == 0
    for text, problem in (("sources = 3", "sources: must be tables: write [[sources]]"), ("", "sources: is missing")):
        example.write_text(text)
        result = CliRunner().invoke(app, ["config", "check"])
        assert result.exit_code == 2
        assert f"{example}: {problem}" in result.stderr
