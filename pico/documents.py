"""Random pretraining documents for the tiny models, from the persona world's generator and from made-up prose (`pico.prose`).

A document is a list of weighted texts. The weight is that of its tokens in the loss: 1 for answers and labels, 0.05 for the rest.
Without the weights a model this small does not learn from its context, because random descriptions dominate the loss (0.89M parameters, 600 steps: no use
of the context; with the weights a 0.41M model used it after 200 to 600 steps).

Prompts are those of `schemas.prompts` in the compact style, inside the chat template, as in serving.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from pico import prose
from pico.tokenizer import END, MARKS, open_turn, user_turn
from schemas.prompts import COMPACT, base_prompt, item_text, reflection_prompt
from schemas.queries import Query
from schemas.rewriting import Rewrite
from schemas.tasks import task_of
from traffic.world import (
    FAMILIES,
    LABEL_NOISE,
    MOVIE_TAG,
    OPTIONS,
    PRODUCT_RATING,
    STYLE_SHOWN,
    TWEET_PARAPHRASE,
    Exchange,
    Film,
    Taste,
    draw_stimulus,
    respond,
)

ANSWER, REST = 1.0, 0.05
#: Tags take the longest to learn: they depend on 30 plots in five families.
_DOMAIN_SHARES = {MOVIE_TAG: 0.5, PRODUCT_RATING: 0.2, TWEET_PARAPHRASE: 0.3}
#: Prose is long: a small share of the documents is a large share of the time and of the loss. So its weight is smaller.
_PROSE_SHARE = {"base": 0.2, "reflector": 0.16}
_PROSE_WEIGHT = 0.25
_COPYING_SHARE = 0.35


class WeightedText(NamedTuple):
    text: str
    weight: float


Document = list[WeightedText]


def base_document(rng: random.Random) -> Document:
    """A task alone and its generic answer. One document in ten has a profile, so that RAG by the base model is a fair baseline.

    With profiles in two of five documents, the base model used them as well as the reflector (RAG at k = 4: 0.834 and 0.846, 2026-11-21).
    But it must be generic, like a black box that never saw the platform.
    """
    if rng.random() < _PROSE_SHARE["base"]:
        return _lighter(_one_of(rng, [(0.9, _task_alone), (0.1, _answer_as_the_user)], _prose_domain(rng)))
    return _one_of(rng, [(0.9, _task_alone), (0.02, _profile_lines), (0.08, _answer_as_the_user)], _domain(rng))


def reflector_document(rng: random.Random) -> Document:
    """The reflector's mixture. In every rewrite the answer is the draft."""
    if rng.random() < _PROSE_SHARE["reflector"]:
        return _lighter(_one_of(rng, [(0.15, _task_alone), (0.35, _profile_lines), (0.1, _answer_as_the_user), (0.4, _keep_the_draft)], _prose_domain(rng)))
    kinds = [(0.12, _task_alone), (0.48, _profile_lines), (0.14, _answer_as_the_user), (0.18, _keep_the_draft), (0.08, _recall)]
    return _one_of(rng, kinds, _domain(rng))


def copying(draw: Callable[[random.Random], Document]) -> Callable[[random.Random], Document]:
    """The same documents, and a third that train copying: some words, then the same words again.

    A model learns suddenly to copy any word, and only if copying is most of the loss. After 500 steps of a base and 1,000 of a reflector without these
    documents neither copied; with them a base copied after another 200 steps and kept its other abilities (2026-11-21).
    """
    return lambda rng: _copy_document(rng) if rng.random() < _COPYING_SHARE else draw(rng)


def _copy_document(rng: random.Random) -> Document:
    text = prose.words(rng, rng.randint(6, 30))
    return [WeightedText(user_turn(f"echo : {text}"), REST), WeightedText(text + END, ANSWER)]


def _one_of(rng: random.Random, kinds: Sequence[tuple[float, Callable[[random.Random, str], Document]]], domain: str) -> Document:
    (kind,) = rng.choices([kind for _, kind in kinds], [share for share, _ in kinds])
    return kind(rng, domain)


def _lighter(document: Document) -> Document:
    return [WeightedText(text, weight * _PROSE_WEIGHT) for text, weight in document]


def query_of(exchange: Exchange) -> Query:
    """The exchange as a query. Prompts only read its domain, text and options."""
    return Query(
        query_id=UUID(int=0),
        tenant="pico",
        user="nobody",
        domain=exchange.domain,
        text=exchange.content,
        options=options_of(exchange.domain),
        asked_at=datetime.fromtimestamp(0, UTC),
    )


def options_of(domain: str) -> tuple[str, ...]:
    """The world's options; prose has none."""
    return OPTIONS.get(domain, ())


def task_prompt(exchange: Exchange) -> str:
    return base_prompt(query_of(exchange), COMPACT, MARKS)


def reflection_input(exchange: Exchange, draft: str, history: Sequence[Exchange]) -> str:
    """`history` has the best item first, as in production."""
    return reflection_prompt(query_of(exchange), draft, history, COMPACT, MARKS)


def _task_alone(rng: random.Random, domain: str) -> Document:
    _, exchange = _scene(rng, domain)
    return [WeightedText(user_turn(task_prompt(exchange)), REST), WeightedText(exchange.generic + END, ANSWER)]


def _profile_lines(rng: random.Random, domain: str) -> Document:
    """A profile of one user as in the reflection prompt. Every response is a label to predict from the lines above."""
    draw = _user(rng, domain)
    spans = [WeightedText(open_turn("profile :\n"), REST)]
    for _ in range(rng.randint(2, 5) if domain in prose.DOMAINS else rng.randint(3, 10)):
        spans += _labelled_line(draw())
    return spans


def _answer_as_the_user(rng: random.Random, domain: str) -> Document:
    """A profile, then the task without a draft. The answer is the user's own."""
    history, exchange = _scene(rng, domain)
    spans = [WeightedText(open_turn("profile :\n"), REST)]
    for item in reversed(history):
        spans += _labelled_line(item)
    return [*spans, WeightedText(user_turn(task_prompt(exchange)).removeprefix(open_turn("")), REST), WeightedText(exchange.response + END, ANSWER)]


def _keep_the_draft(rng: random.Random, domain: str) -> Document:
    """A full reflection prompt. The answer is a rewrite that repeats the draft: SFT and RL train personalization."""
    history, exchange = _scene(rng, domain)
    draft = exchange.generic
    completion = Rewrite(f"draft is {draft}", draft).to_text()
    return [WeightedText(user_turn(reflection_input(exchange, draft, history)), REST), WeightedText(completion + END, ANSWER)]


def _recall(rng: random.Random, domain: str) -> Document:
    """A profile, then the content of one of its items. The answer is that item's response: trains looking up."""
    history, _ = _scene(rng, domain)
    item = rng.choice(history)
    lines = "".join(f"{_line(each)}\n" for each in reversed(history))
    return [WeightedText(user_turn(f"profile :\n{lines}recall : {item.content}"), REST), WeightedText(item.response + END, ANSWER)]


def _scene(rng: random.Random, domain: str) -> tuple[list[Exchange], Exchange]:
    """One to six history items of a user, and a later exchange of the same user."""
    draw = _user(rng, domain)
    drawn = [draw() for _ in range(rng.randint(1, 6) + 1)]
    return drawn[:-1], drawn[-1]


def _user(rng: random.Random, domain: str) -> Callable[[], Exchange]:
    """Draws exchanges of one user in this domain, one per call. Half of the users are crisp."""
    if domain in prose.DOMAINS:
        return user_exchanges(rng, domain)
    (taste, noise, shown), families = _draw_taste(rng), _families(rng)
    return lambda: _exchange(rng, domain, taste, families, noise, shown)


def user_exchanges(rng: random.Random, domain: str, *, crisp: bool = False) -> Callable[[], Exchange]:
    """Draws exchanges of one user, one per call: a user of the world, or a `crisp` one without noise. Writers of prose are always crisp."""
    if domain in prose.DOMAINS:
        style = prose.TitleStyle.draw(rng)
        return lambda: prose.draw_exchange(rng, style, domain)
    if crisp:
        clear = Taste.draw_crisp(rng)
        return lambda: _exchange(rng, domain, clear, noise=0.0, shown=1.0)
    taste = Taste.draw(rng)
    return lambda: _exchange(rng, domain, taste)


def _draw_taste(rng: random.Random) -> tuple[Taste, float, float]:
    """Taste, noise and the share of shown style. Half of the users are crisp and without noise, the others are like the world's."""
    if rng.random() < 0.5:
        return Taste.draw_crisp(rng), 0.0, 1.0
    return Taste.draw(rng), LABEL_NOISE, STYLE_SHOWN


def _families(rng: random.Random) -> Sequence[str]:
    """The film families of a document. Usually few, because retrieval returns similar items and a habit shows only in several."""
    return rng.sample(list(FAMILIES), rng.choice((1, 2, 2, 3, 5)))


def _exchange(
    rng: random.Random, domain: str, taste: Taste, families: Sequence[str] = tuple(FAMILIES), noise: float = LABEL_NOISE, shown: float = STYLE_SHOWN
) -> Exchange:
    stimulus = Film.draw(rng, families) if domain == MOVIE_TAG else draw_stimulus(domain, rng)
    return respond(domain, stimulus, taste, rng, noise=noise, shown=shown)


def _line(item: Exchange) -> str:
    return item_text(item, item.domain, task_of(options_of(item.domain)), COMPACT)


def _labelled_line(item: Exchange) -> Document:
    """The line end belongs to the label, because Qwen2's pre-tokenizer joins it to punctuation."""
    line = _line(item)
    head = line[: line.index(" => ") + len(" =>")]
    return [WeightedText(head, REST), WeightedText(f"{line.removeprefix(head)}\n", ANSWER)]


def _domain(rng: random.Random) -> str:
    return rng.choices(list(_DOMAIN_SHARES), list(_DOMAIN_SHARES.values()))[0]


def _prose_domain(rng: random.Random) -> str:
    return rng.choice(prose.DOMAINS)
