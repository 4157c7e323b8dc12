"""The prompts of the built-in domains, and of domains without an entry, are byte by byte those that were stored when they were code and no entries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from schemas.control_marks import WELL_KNOWN_MARKS as MARKS
from schemas.demonstrations import demonstration_turns
from schemas.lamp_prompt import lamp_prompt
from schemas.prompts import COMPACT, PAPER, base_prompt, item_text, rag_prompt, reflection_prompt
from schemas.queries import Query
from schemas.tasks import MOVIE_TAGS, STARS

STORED = json.loads((Path(__file__).parents[2] / "samples/prompts/built_in.json").read_text())
OPTIONS = {"movie_tag": MOVIE_TAGS, "product_rating": STARS, "topic_choice": ("sea", "city"), "mood": ("0", "1", "2")}


@dataclass(frozen=True)
class Past:
    content: str
    response: str


ITEMS = [Past("a film about {bees}", "classic"), Past("", "only a {response}")]


def query(domain: str) -> Query:
    text, at = "Text with {options} and {text}\nin two lines", datetime(2026, 1, 1, tzinfo=UTC)
    return Query(query_id=UUID(int=1), tenant="acme", user="ada", domain=domain, text=text, options=OPTIONS.get(domain, ()), asked_at=at)


@pytest.mark.parametrize("name", STORED)
def test_the_prompts_of_a_domain_never_change(name: str) -> None:
    domain, kind = name.split("/")
    asked = query(domain)
    if kind == "lamp":
        assert lamp_prompt(asked, ITEMS, PAPER, MARKS) == STORED[name]["prompt"]
        return
    form = PAPER if kind == "paper" else COMPACT
    assert STORED[name] == {
        "base": base_prompt(asked, form, MARKS),
        "reasons": base_prompt(asked, form, MARKS, reasons=True),
        "item": item_text(ITEMS[0], domain, asked.task, form),
        "bare_item": item_text(ITEMS[1], domain, asked.task, form),
        "rag": rag_prompt(asked, ITEMS, form, MARKS, summary="a summary"),
        "reflection": reflection_prompt(asked, "a draft", ITEMS, form, MARKS),
        "turns": [list(turn) for turn in demonstration_turns(asked, ITEMS, form, MARKS)],
    }
