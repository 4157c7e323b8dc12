"""The persona world: the same on every machine, in order of time, and as noisy as it says."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, timedelta
from itertools import pairwise
from statistics import fmean

import pytest

from schemas.tasks import MOVIE_TAGS, STARS, Task
from traffic.world import DOMAINS, FAMILIES, LABEL_NOISE, MOVIE_TAG, PRODUCT_RATING, STYLE_SHOWN, TWEET_PARAPHRASE, Persona, PersonaQuestion, World

POPULATION = 200


@pytest.fixture(scope="module")
def questions() -> list[PersonaQuestion]:
    return [question for persona in World(questions=10).personas(POPULATION) for question in persona.questions()]


def of_domain(questions: list[PersonaQuestion], domain: str) -> list[PersonaQuestion]:
    return [question for question in questions if question.query.domain == domain]


def test_a_seed_gives_the_same_world_in_another_process() -> None:
    code = "from traffic.world import World; p = World(seed=5).persona(7); print(*p.interactions(), *p.questions(), sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "99"})
    persona = World(seed=5).persona(7)
    assert run.stdout.splitlines() == [str(line) for line in (*persona.interactions(), *persona.questions())]


def test_a_persona_does_not_depend_on_how_many_are_drawn() -> None:
    assert list(World(seed=1).personas(5))[3] == World(seed=1).persona(3)


def test_seeds_give_different_worlds() -> None:
    assert World(seed=1).persona(0).past != World(seed=2).persona(0).past


def test_time_is_strictly_increasing_aware_and_questions_come_last() -> None:
    world = World()
    for persona in world.personas(20):
        times = [item.occurred_at for item in persona.interactions()] + [question.query.asked_at for question in persona.questions()]
        assert all(earlier < later for earlier, later in pairwise(times))
        assert all(time.tzinfo is UTC for time in times)
        assert times[-1] < world.end


def test_counts_are_per_domain_and_domains_are_interleaved() -> None:
    persona = World(history=6, questions=2).persona(0)
    past = [item.domain for item in persona.interactions()]
    assert {domain: past.count(domain) for domain in DOMAINS} == dict.fromkeys(DOMAINS, 6)
    assert past != sorted(past)
    assert len(persona.questions()) == 2 * len(DOMAINS)


def test_ids_are_plausible_and_unique() -> None:
    personas = list(World(tenant="acme").personas(30))
    ids = [item.interaction_id for persona in personas for item in persona.interactions()]
    assert personas[29].user == "u0029" and personas[29].tenant == "acme"
    assert len(set(ids)) == len(ids)


def test_families_cover_the_fifteen_tags_once() -> None:
    assert sorted(tag for tags in FAMILIES.values() for tag in tags) == sorted(MOVIE_TAGS)


def test_every_answer_is_allowed_by_its_query(questions: list[PersonaQuestion]) -> None:
    tasks = {question.query.domain: question.query.task for question in questions}
    assert tasks == {MOVIE_TAG: Task.LABEL, PRODUCT_RATING: Task.RATING, TWEET_PARAPHRASE: Task.TEXT}
    for question in questions:
        answers = {question.truth, question.generic, question.ideal}
        assert not question.query.options or answers <= set(question.query.options)


def test_tags_are_noisy_as_declared(questions: list[PersonaQuestion]) -> None:
    off = fmean(question.truth != question.ideal for question in of_domain(questions, MOVIE_TAG))
    assert off == pytest.approx(LABEL_NOISE * 2 / 3, abs=0.02)  # one of the family's three tags is the ideal one


def test_ratings_are_off_by_at_most_one_star(questions: list[PersonaQuestion]) -> None:
    errors = [abs(int(question.truth) - int(question.ideal)) for question in of_domain(questions, PRODUCT_RATING)]
    assert set(errors) == {0, 1}
    assert 0.07 < fmean(errors) < LABEL_NOISE + 0.01  # noise beyond the scale's ends does not show


def test_a_style_fades_now_and_then(questions: list[PersonaQuestion]) -> None:
    styled = [question for question in of_domain(questions, TWEET_PARAPHRASE) if question.ideal.lower().startswith("honestly ")]
    assert fmean(question.truth.lower().startswith("honestly ") for question in styled) == pytest.approx(STYLE_SHOWN, abs=0.06)


@pytest.mark.parametrize(("domain", "blind", "informed"), [(MOVIE_TAG, 0.46, 0.92), (PRODUCT_RATING, 0.36, 0.90), (TWEET_PARAPHRASE, 0.04, 0.66)])
def test_knowing_the_user_pays_in_every_domain(questions: list[PersonaQuestion], domain: str, blind: float, informed: float) -> None:
    asked = of_domain(questions, domain)
    assert fmean(question.generic == question.truth for question in asked) == pytest.approx(blind, abs=0.05)
    assert fmean(question.ideal == question.truth for question in asked) == pytest.approx(informed, abs=0.05)


def test_a_world_of_one_domain_is_possible() -> None:
    persona = World(domains=(PRODUCT_RATING,), history=3).persona(0)
    assert {item.domain for item in persona.interactions()} == {PRODUCT_RATING}
    assert {item.response for item in persona.interactions()} <= set(STARS)


def test_a_share_of_users_drifts_and_asks_with_the_later_taste() -> None:
    drifting = [persona for persona in World(drift=0.5, history=8).personas(60) if persona.drifted_at]
    assert 15 < len(drifting) < 45
    for persona in drifting:
        moment = persona.drifted_at
        assert moment is not None and persona.past[0][0] < moment < persona.past[-1][0]
    before, after = agreement(drifting, before=True), agreement(drifting, before=False)
    assert before < 0.75 and after > 0.8


def agreement(personas: list[Persona], *, before: bool) -> float:
    """Share of past tags that are what the taste of today would give, before or after the drift."""
    tags = [
        exchange.response == (persona.taste.favourites[family_of(exchange.response)] or exchange.generic)
        for persona in personas
        for at, exchange in persona.past
        if exchange.domain == MOVIE_TAG and (persona.drifted_at is not None and at < persona.drifted_at) == before
    ]
    return fmean(tags)


def family_of(tag: str) -> str:
    return next(family for family, tags in FAMILIES.items() if tag in tags)


def test_newcomers_have_two_late_items_a_domain() -> None:
    world = World(newcomers=0.3)
    newcomers = [persona for persona in world.personas(60) if persona.newcomer]
    assert 8 < len(newcomers) < 30
    for persona in newcomers:
        assert len(persona.past) == 2 * len(DOMAINS) and len(persona.asked) == world.questions * len(DOMAINS)
        assert persona.past[0][0] > world.end - timedelta(days=world.asking_days + world.past_days / 6 + 1)


def test_shares_of_drifting_and_new_users_leave_the_others_alone() -> None:
    plain, mixed = World(seed=3), World(seed=3, drift=0.4, newcomers=0.2)
    same = [number for number in range(30) if mixed.persona(number).drifted_at is None and not mixed.persona(number).newcomer]
    assert 5 < len(same) < 30
    assert all(plain.persona(number) == mixed.persona(number) for number in same)
