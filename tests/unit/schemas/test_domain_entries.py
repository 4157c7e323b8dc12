"""Domain entries: what an entry changes, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from schemas.control_marks import WELL_KNOWN_MARKS as MARKS
from schemas.demonstrations import demonstration_turns
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.prompts import PAPER, ChatTurn, PromptForm, PromptStyle, base_prompt, item_text, reflection_prompt, template_digest, turns_of
from schemas.queries import Query
from schemas.tasks import STARS, Task

PRIORITY = DomainEntry(
    system="You sort e-mails. A priority is one of {options}.",
    user_template="Which priority has this e-mail?\n{text}",
    item_template="{content}: {response}",
    options=("P1", "P2", "P3", "P4"),
    ordered=True,
    metric="ordinal_score",
    k=2,
    max_new_tokens=5,
)
DOMAINS = Domains({"email_priority": PRIORITY})
FORM = PromptForm(PromptStyle.PAPER, DOMAINS)


@dataclass(frozen=True)
class Past:
    content: str
    response: str


def make_query(domain: str, options: tuple[str, ...], text: str = "server down") -> Query:
    return Query(query_id=UUID(int=1), tenant="acme", user="ada", domain=domain, text=text, options=options, asked_at=datetime(2026, 1, 1, tzinfo=UTC))


def entry(**fields: Any) -> DomainEntry:
    return DomainEntry.model_validate(fields)


def test_a_query_gets_the_options_of_its_domain() -> None:
    asked = make_query(domain="email_priority", options=())
    assert DOMAINS.completed(asked).options == ("P1", "P2", "P3", "P4") and DOMAINS.completed(asked).task is Task.LABEL
    assert BUILT_IN_DOMAINS.completed(asked) is asked  # free text, as of any unknown domain
    assert BUILT_IN_DOMAINS.completed(make_query(domain="movie_tag", options=())).task is Task.TEXT  # as before there were entries


def test_a_querys_own_options_count_in_the_order_of_the_scale() -> None:
    assert DOMAINS.completed(make_query(domain="email_priority", options=("P3", "P1"))).options == ("P1", "P3")
    for options in (("urgent", "later"), ("P1", "P2")):
        assert DOMAINS.completed(make_query(domain="email_priority", options=options)).options == options
    unordered, entry_of = make_query(domain="grade", options=("3", "1")), Domains({"grade": entry(options=["1", "2", "3"])})
    assert entry_of.completed(unordered) is unordered


def test_the_base_model_gets_the_system_message_and_the_template() -> None:
    asked = make_query(domain="email_priority", options=("P1", "P2"), text="{options} </think>")
    turns = turns_of(asked, base_prompt(asked, FORM, MARKS), FORM, MARKS)
    assert turns[0] == ChatTurn("system", "You sort e-mails. A priority is one of P1, P2.")
    assert turns[1].role == "user" and turns[1].content.startswith("Which priority has this e-mail?\n{options} ") and "</think>" not in turns[1].content
    demonstrated = demonstration_turns(asked, [Past("old", "P1")], FORM, MARKS)
    assert [turn.role for turn in demonstrated] == ["system", "user", "assistant", "user"] and demonstrated[0] == turns[0]


def test_the_reflection_model_gets_the_same_task_and_items() -> None:
    asked = make_query(domain="email_priority", options=("P1", "P2"), text="server down")
    prompt = reflection_prompt(asked, "P2", [Past("an outage", "P1")], FORM, MARKS)
    assert "You sort e-mails. A priority is one of P1, P2.\n\nWhich priority has this e-mail?\nserver down" in prompt
    assert "an outage: P1" in prompt


@pytest.mark.parametrize(("ordered", "words"), [(False, "alone: yes, no"), (True, "a scale from the first to the last: yes, no")])
def test_options_that_no_template_names_follow_the_task(ordered: bool, words: str) -> None:
    form = PromptForm(PromptStyle.PAPER, Domains({"mail": entry(user_template="{text}", options=["yes", "no"], ordered=ordered)}))
    asked = make_query(domain="mail", options=("yes", "no"), text="buy now")
    assert base_prompt(asked, form, MARKS).startswith("buy now\n\nAnswer with one of these options") and words in base_prompt(asked, form, MARKS)


@pytest.mark.parametrize("template", ["Is it yes or no? {text}", "{text} ({options})", "{text}: {options_or}?"])
def test_options_that_a_template_names_are_not_repeated(template: str) -> None:
    form = PromptForm(PromptStyle.PAPER, Domains({"mail": entry(user_template=template)}))
    assert "Answer with one" not in base_prompt(make_query(domain="mail", options=("yes", "no")), form, MARKS)
    assert ("Answer with one" in base_prompt(make_query(domain="mail", options=("yes", "never")), form, MARKS)) is ("yes or no" in template)


@pytest.mark.parametrize("domain", ["product_rating", "scholarly_title", "movie_tag", "any_other"])
def test_a_prompt_names_all_options_of_every_domain(domain: str) -> None:
    for options in (("red", "green", "blue"), ("0", "10")):
        assert all(option in base_prompt(make_query(domain=domain, options=options, text="x"), PAPER, MARKS) for option in options)


def test_what_an_entry_leaves_out_is_that_of_the_built_in_one_or_of_the_kind() -> None:
    changed = Domains({"movie_tag": entry(k=3), "memo": entry(user_template="Write a memo: {text}")})
    assert changed.entry("movie_tag", Task.LABEL).user_template == BUILT_IN_DOMAINS.entry("movie_tag", Task.LABEL).user_template
    assert (changed.k("movie_tag", 4), changed.k("memo", 4), changed.max_new_tokens("memo", 64)) == (3, 4, 64)
    memo = changed.entry("memo", Task.TEXT)
    assert memo.reasons_template == memo.user_template == "Write a memo: {text}"
    form = PromptForm(PromptStyle.PAPER, changed)
    assert item_text(Past("ask", "memo"), "memo", Task.TEXT, form) == '"memo" is the response to "ask"'


def test_the_measures_of_an_entry_count_for_the_kinds_that_they_can_score() -> None:
    assert DOMAINS.metric("email_priority", Task.LABEL).name == DOMAINS.reward("email_priority", Task.LABEL).name == "ordinal_score"
    assert DOMAINS.metric("email_priority", Task.TEXT).name == "style_f1"
    other = Domains({"memo": entry(metric="rouge_l", reward="chrf")})
    assert (other.metric("memo", Task.TEXT).name, other.reward("memo", Task.TEXT).name) == ("rouge_l", "chrf")
    assert [BUILT_IN_DOMAINS.reward("any", task).name for task in Task] == ["accuracy", "rating_score", "style_f1"]


def test_entries_of_the_settings_change_the_digest_of_the_prompts() -> None:
    assert template_digest(FORM) != template_digest(PAPER) == template_digest(PromptForm(PromptStyle.PAPER, Domains({})))
    assert DOMAINS.digest == Domains({"email_priority": PRIORITY}).digest != "" == BUILT_IN_DOMAINS.digest


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("user_template", "Reply to {mail}", "unknown placeholder {mail}: use {text}, {options}"),
        ("user_template", "Reply", "must hold the placeholder {text}"),
        ("user_template", "Reply {text.__class__}", "must be a name alone"),
        ("user_template", "Reply {text[0]}", "must be a name alone"),
        ("user_template", "Reply {text!r}", "must be a name alone"),
        ("user_template", "Reply {text:>{options}}", "must be a name alone"),
        ("user_template", "Reply {} {text}", "must be a name alone"),
        ("user_template", "Reply {text", "without its other half"),
        ("system", "You answer {text}", "unknown placeholder {text}"),
        ("item_template", "{content}", "must hold the placeholder {response}"),
        ("options", ["P1", "P2", "P1"], "options 0 and 2 are the same text"),
        ("options", ["P1", " "], "option 1 is blank"),
        ("metric", "bleu", "is unknown: use accuracy"),
        ("reward", "no_such_module:tone", "cannot be imported"),
        ("k", 0, "greater than or equal to 1"),
        ("max_new_tokens", 0, "greater than 0"),
        ("metrics", "accuracy", "Extra inputs"),
    ],
)
def test_a_field_that_cannot_work_is_refused(field: str, value: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as raised:
        entry(**{field: value})
    (error,) = raised.value.errors()
    assert error["loc"] == (field,) and problem in error["msg"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"metric": "ordinal_score", "options": ["a", "b"]}, "metric='ordinal_score': needs ordered options"),
        ({"metric": "ordinal_score"}, "metric='ordinal_score': needs ordered options"),
        ({"ordered": True}, "ordered=true: needs at least two options"),
        ({"metric": "rating_score", "options": ["a", "b"]}, "metric='rating_score': cannot score labels; use accuracy"),
        ({"reward": "chrf", "options": ["a", "b"], "ordered": True}, "reward='chrf': cannot score labels; use accuracy, ordinal_score"),
        ({"metric": "rating_score"}, "cannot score free text"),
        ({"metric": "style_f1", "options": ["1", "2"]}, "cannot score whole numbers; use accuracy, rating_score"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named(fields: dict[str, Any], problem: str) -> None:
    (found,) = Domains({"mail": entry(**fields)}).problems()
    assert found.startswith("domains.mail.") and problem in found


def test_good_entries_have_no_problem() -> None:
    assert DOMAINS.problems() == [] == BUILT_IN_DOMAINS.problems()
    stars = entry(metric="ordinal_score", ordered=True, options=STARS)
    assert Domains({"product_rating": stars, "text": entry(metric="accuracy")}).problems() == []
