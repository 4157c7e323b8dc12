"""`retouch domains`: the entries, and what the models are asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from schemas.strategies import Strategy

PRIORITY = {
    "system": "You sort e-mails: {options}.",
    "user_template": "Which priority? {text}",
    "options": ["P1", "P2", "P3"],
    "ordered": True,
    "metric": "ordinal_score",
    "k": 2,
    "max_new_tokens": 5,
}


def domains(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["domains", *arguments])
    return result.exit_code, result.stdout, result.stderr


def shown(*arguments: str) -> dict[str, Any]:
    code, out, _ = domains("show", *arguments, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_DOMAINS__EMAIL_PRIORITY", json.dumps(PRIORITY))
    monkeypatch.setenv("RETOUCH_BASE", json.dumps({"url": "http://127.0.0.1:9/v1", "model": "m"}))


@pytest.mark.usefixtures("configured")
def test_entries_of_the_settings_stand_beside_the_built_in_ones() -> None:
    code, out, _ = domains("list", "--json")
    rows = {row["domain"]: row for row in json.loads(out)["domains"]}
    assert code == 0 and rows["movie_tag"]["from"] == "built in" and len(rows) == 6
    expected = {"from": "settings", "kind": "label, ordered", "options": ["P1", "P2", "P3"], "metric": "ordinal_score", "reward": "ordinal_score", "k": 2}
    assert rows["email_priority"] == {"domain": "email_priority", "max_new_tokens": 5, "sft_k": "2", "rl_k": "2", "rewrite_tokens": 37} | expected
    assert [rows["movie_tag"][name] for name in ("k", "sft_k", "rl_k", "rewrite_tokens")] == [4, "1", "2 to 6", 96]
    assert "email_priority" in domains("list")[1]


@pytest.mark.usefixtures("configured")
def test_every_prompt_is_shown_with_the_domains_texts() -> None:
    found = shown("email_priority", "--text", "server down", "--item", "an outage => P1", "--item", "a newsletter => P3", "--draft", "P2")
    by_strategy = {(name, prompt["model"]): prompt for prompt in found["prompts"] for name in prompt["strategies"]}
    assert {name for name, model in by_strategy if model == "base model m"} == set(Strategy) - {Strategy.RPM}
    base = by_strategy["rpo", "base model m"]
    assert [turn["role"] for turn in base["turns"]] == ["system", "user"] and (base["tokens"], base["max_new_tokens"]) == (None, 5)
    assert base["turns"][0]["content"] == "You sort e-mails: P1, P2, P3." and base["turns"][1]["content"] == "Which priority? server down"
    assert all(prompt["turns"][0] == base["turns"][0] for (_, model), prompt in by_strategy.items() if model == "base model m")
    reflection = by_strategy["rpo", "reflection model"]
    assert reflection["tokens"] > 20 and "an outage => P1" in reflection["turns"][0]["content"] and "draft : P2" in reflection["turns"][0]["content"]
    assert reflection["max_new_tokens"] == 37  # 5, and what reflection.max_new_tokens=96 leaves beside base.max_new_tokens=64
    assert "a newsletter" in domains("show", "email_priority", "--text", "x", "--item", "a newsletter => P3")[1]


def test_tokens_are_those_of_the_local_tokenizers() -> None:
    short, long = shown("movie_tag", "--text", "a heist"), shown("movie_tag", "--text", "a heist in a city of bees " * 3)
    for few, many in zip(short["prompts"], long["prompts"], strict=True):
        assert 0 < few["tokens"] < many["tokens"] and few["strategies"] == many["strategies"]


def test_a_domain_without_entry_is_shown_by_its_options() -> None:
    assert (shown("memo", "--text", "x")["kind"], shown("memo", "--text", "x")["from"]) == ("text", "no entry")
    assert shown("memo", "--text", "x", "--option", "1", "--option", "2")["metric"] == "rating_score"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("E-Mail", "--text", "x"), "domain: string_pattern_mismatch (write a text that matches ^[a-z]"),
        (("memo", "--text", "x", "--option", ""), "options.0: string_too_short (write at least 1 characters)"),
        (("memo", "--text", "x", "--item", "no separator"), "--item 1: write it as `content => response`"),
        (("memo", "--text", "x", "--option", "a", "--option", "a"), "options 0 and 1 are the same text"),
    ],
)
def test_arguments_that_no_query_can_have_are_refused(arguments: tuple[str, ...], problem: str) -> None:
    code, _, error = domains("show", *arguments)
    assert code == 2 and problem in error


def test_an_entry_that_cannot_work_is_refused_by_config_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_DOMAINS__EMAIL_REPLY__USER_TEMPLATE", "Reply to {mail}")
    result = CliRunner().invoke(app, ["config", "check"])
    assert result.exit_code == 2 and "domains.email_reply.user_template='Reply to {mail}'" in result.stderr and "use {text}" in result.stderr
