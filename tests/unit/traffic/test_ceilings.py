"""Ceilings of the persona world: their order, and the simple rules that compute them."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest

from schemas.domains import BUILT_IN_DOMAINS
from traffic.ceilings import best_rule
from traffic.world import DOMAINS, MOVIE_TAG, PRODUCT_RATING, TWEET_PARAPHRASE, Exchange, Persona, PersonaQuestion, World

KS = (1, 2, 4, 6)


def like_first(question: PersonaQuestion, persona: Persona) -> list[Exchange]:
    """Items of the domain, those of the same plain answer first: a crude retrieval."""
    past = [exchange for _, exchange in persona.past if exchange.domain == question.query.domain]
    words = set(question.query.text.split())
    return sorted(past, key=lambda item: -len(words & set(item.content.split())))


@pytest.fixture(scope="module")
def everybody() -> list[tuple[PersonaQuestion, list[Exchange]]]:
    """Questions, each with the items that were found for it."""
    personas = World(history=24, questions=6).personas(150)
    return [(question, like_first(question, persona)) for persona in personas for question in persona.questions()]


@pytest.mark.parametrize("domain", DOMAINS)
def test_more_visible_items_give_higher_scores(everybody: list[tuple[PersonaQuestion, list[Exchange]]], domain: str) -> None:
    asked = [(question, items) for question, items in everybody if question.query.domain == domain]
    rule = [fmean(_score(question, best_rule(question, items[:k])) for question, items in asked) for k in (0, 1, 2, 4, 6)]
    ideal = fmean(_score(question, question.ideal) for question, _ in asked)
    assert all(later > earlier - 0.015 for earlier, later in pairwise([*rule, ideal]))
    assert rule[1] > rule[0] + 0.05 and rule[-1] > rule[1] + 0.01


def _score(question: PersonaQuestion, answer: str) -> float:
    query = question.query
    return BUILT_IN_DOMAINS.metric(query.domain, query.task).score(answer, question.truth, query.options)


def exchange(domain: str, content: str, generic: str, response: str) -> Exchange:
    return Exchange(domain, content, generic, response, response)


def asked(domain: str, generic: str, text: str = "the bus is slow today") -> PersonaQuestion:
    question = next(one for one in World(domains=(domain,)).persona(0).questions())
    return PersonaQuestion(question.query.model_copy(update={"text": text}), truth=generic, generic=generic, ideal=generic)


def test_a_tag_is_what_most_films_of_the_family_have_and_the_nearest_decides_a_tie() -> None:
    seen = [exchange(MOVIE_TAG, "", "comedy", tag) for tag in ("dark comedy", "violence", "social commentary", "violence")]
    assert best_rule(asked(MOVIE_TAG, "comedy"), seen) == "dark comedy"
    assert best_rule(asked(MOVIE_TAG, "action"), seen) == "violence"
    assert best_rule(asked(MOVIE_TAG, "fantasy"), seen) == "fantasy"


def test_a_rating_shifts_as_most_items_do_and_the_scales_ends_say_little() -> None:
    hidden = exchange(PRODUCT_RATING, "", "5", "5")
    shifted = exchange(PRODUCT_RATING, "", "3", "4")
    assert best_rule(asked(PRODUCT_RATING, "2"), [hidden, hidden, shifted]) == "3"
    assert best_rule(asked(PRODUCT_RATING, "5"), [shifted]) == "5"
    assert best_rule(asked(PRODUCT_RATING, "2"), [hidden]) == "2"


def test_a_text_takes_each_part_of_the_manner_by_itself() -> None:
    seen = [
        exchange(TWEET_PARAPHRASE, "my phone is new again", "", "ok so my phone is totally new again"),
        exchange(TWEET_PARAPHRASE, "the gym is cold tonight", "", "the gym is totally cold tonight :)"),
        exchange(TWEET_PARAPHRASE, "my dog is loud again", "", "ok so my dog is very loud again :)"),
    ]
    assert best_rule(asked(TWEET_PARAPHRASE, ""), seen) == "ok so the bus is totally slow today :)"


def test_an_ideal_answer_of_a_user_without_noise_is_what_the_rule_reads() -> None:
    persona = World(domains=(TWEET_PARAPHRASE,)).persona(3)
    seen = [exchange(TWEET_PARAPHRASE, item.content, item.generic, item.ideal) for _, item in persona.past]
    assert all(best_rule(question, seen) == question.ideal for question in persona.questions())
