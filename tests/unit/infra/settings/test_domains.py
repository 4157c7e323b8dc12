"""`[domains.NAME]`: the example of the docs, the environment, and what a start refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from infra.errors import BadSetting
from infra.settings import load
from infra.settings.sources import sources
from schemas.tasks import Task

PAGE = (Path(__file__).parents[4] / "docs" / "domains.md").read_text()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "retouch.toml"
    path.write_text(text)
    monkeypatch.setenv("RETOUCH_CONFIG", str(path))
    return path


@pytest.mark.usefixtures("example")
def test_the_example_of_the_docs_loads() -> None:
    entries = load().entries
    assert entries.metric("email_priority", Task.LABEL).name == "ordinal_score" and entries.own("email_priority").ordered
    assert (entries.metric("email_reply", Task.TEXT).name, entries.reward("email_reply", Task.TEXT).name) == ("rouge_l", "style_f1")
    assert (entries.k("email_reply", 4), entries.max_new_tokens("email_reply", 64), entries.k("email_priority", 4)) == (3, 200, 4)


@pytest.mark.usefixtures("example")
def test_a_rewrite_has_room_for_its_reasoning_beside_the_answer_of_its_domain() -> None:
    tokens = load(base={"max_new_tokens": 256}, reflection={"max_new_tokens": 512}).rewrite_limits
    assert [tokens.rewrite(domain) for domain in ("email_reply", "email_priority", "movie_tag", "memo")] == [456, 261, 512, 512]
    assert [tokens.prompt(domain) for domain in ("email_reply", "memo")] == [2048 - 456, 2048 - 512]


def test_the_largest_answer_that_fits_beside_its_rewrite_is_named() -> None:
    for length in (2048, 2049):
        with pytest.raises(BadSetting, match="use less than") as refused:
            load(reflection={"max_model_len": length}, domains={"memo": {"max_new_tokens": length}})
        largest = int(re.findall(r"use less than (\d+)", str(refused.value))[0]) - 1
        load(reflection={"max_model_len": length}, domains={"memo": {"max_new_tokens": largest}})
        with pytest.raises(BadSetting, match="use less than"):
            load(reflection={"max_model_len": length}, domains={"memo": {"max_new_tokens": largest + 1}})


def test_a_rewrite_without_room_for_its_reasoning_is_refused() -> None:
    load(reflection={"max_new_tokens": 64}, domains={"memo": {"k": 2}})
    with pytest.raises(BadSetting, match=r"domains\.memo\.max_new_tokens=5: .* set reflection\.max_new_tokens=64 above base\.max_new_tokens=64"):
        load(reflection={"max_new_tokens": 64}, domains={"memo": {"max_new_tokens": 5}})


def test_a_variable_sets_one_field_and_is_its_source(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_DOMAINS__EMAIL_REPLY__K", "2")
    monkeypatch.setenv("RETOUCH_DOMAINS__MOOD__OPTIONS", '["good", "bad"]')
    monkeypatch.setenv("RETOUCH_DOMAINS__MEMO", '{"k": 1}')
    settings = load()
    found = {setting.key: (setting.value, setting.source) for setting in sources(settings)}
    assert found["domains.email_reply.k"] == (2, "RETOUCH_DOMAINS__EMAIL_REPLY__K")
    assert found["domains.email_reply.metric"] == ("rouge_l", str(example))
    assert found["domains.memo.k"] == (1, "RETOUCH_DOMAINS__MEMO")
    assert settings.entries.own("mood").options == ("good", "bad") and "domains.mood.k" not in found


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"user_template": "Reply to {mail}"}, "domains.email_reply.user_template='Reply to {mail}': holds the unknown placeholder {mail}: use {text}"),
        ({"k": 7}, "domains.email_reply.k=7: must not exceed retrieval.k_max=6"),
        (
            {"max_new_tokens": 2000},
            "domains.email_reply.max_new_tokens=2000: such an answer does not fit .* use less than 1008",
        ),
        ({"metric": "ordinal_score"}, "domains.email_reply.metric='ordinal_score': needs ordered options"),
        ({"options": ["P1", "P2", "P1"], "ordered": True}, "domains.email_reply.options: options 0 and 2 are the same text"),
        ({"options": "P1,P2"}, "domains.email_reply.options='P1,P2': must be a list"),
        ({"metric": "no_such_module:tone"}, "domains.email_reply.metric='no_such_module:tone': the module no_such_module cannot be imported"),
        ({"templates": "x"}, "domains.email_reply.templates: "),
        ({"k": True}, "domains.email_reply.k=True: must be a whole number, not true or false"),
        ({"max_new_tokens": False}, "domains.email_reply.max_new_tokens=False: must be a whole number, not true or false"),
    ],
)
def test_an_entry_that_cannot_work_is_refused_by_its_key(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSetting, match="^" + problem.replace("{", r"\{")):
        load(domains={"email_reply": entry})


def test_a_name_that_no_query_can_have_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"domains\.E-Mail"):
        load(domains={"E-Mail": {"k": 2}})
