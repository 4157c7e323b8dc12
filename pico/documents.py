"""The documents that the tiny models are pretrained on, drawn without end from the world's generator and from made-up prose (`pico.prose`).

A document is a list of spans. A span's weight says how much its tokens count in the loss: answers and labels 1, everything else 0.05.
That weighting is what makes a model this small learn from context: with a plain language-model loss the random descriptions drown the labels
(0.89M parameters, 600 steps: no in-context use at all; with the weights a 0.41M model had it after 200 to 600).

Prompts come from `schemas.prompts` in the compact style, inside the chat template, so serving never leaves the distribution seen here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from pico import prose
from pico.tokenizer import END, open_turn, user_turn
from schemas.prompts import PromptStyle, base_prompt, item_text, reflection_prompt
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
STYLE = PromptStyle.COMPACT
#: Tags take the longest to learn: 30 plots in five families stand behind them.
_DOMAIN_SHARES = {MOVIE_TAG: 0.5, PRODUCT_RATING: 0.2, TWEET_PARAPHRASE: 0.3}
#: Prose is long: a small share of documents is a large share of the time, and of what there is to predict, hence its smaller weight.
_PROSE_SHARE = {"base": 0.2, "reflector": 0.16}
_PROSE_WEIGHT = 0.25
_ECHO_SHARE = 0.35


class WeightedText(NamedTuple):
    text: str
    weight: float


Document = list[WeightedText]


def base_document(rng: random.Random) -> Document:
    """A task alone and its generic answer; one document in ten shows a profile, so that RAG by the base is a baseline and no straw man.

    Shown in two of five, the base read profiles of this world as well as the reflector does (RAG at k = 4: 0.834 and 0.846, 2026-11-21): an expert
    in these very users. It is to be generic, as a black box is that never saw the platform.
    """
    if rng.random() < _PROSE_SHARE["base"]:
        return _lighter(_one_of(rng, [(0.9, _blind), (0.1, _answer_as_the_user)], _prose_domain(rng)))
    return _one_of(rng, [(0.9, _blind), (0.02, _log), (0.08, _answer_as_the_user)], _domain(rng))


def reflector_document(rng: random.Random) -> Document:
    """The reflector's mixture. Nothing in it shows the rewrite's format with anything but the draft as its answer."""
    if rng.random() < _PROSE_SHARE["reflector"]:
        return _lighter(_one_of(rng, [(0.15, _blind), (0.35, _log), (0.1, _answer_as_the_user), (0.4, _keep_the_draft)], _prose_domain(rng)))
    kinds = [(0.12, _blind), (0.48, _log), (0.14, _answer_as_the_user), (0.18, _keep_the_draft), (0.08, _recall)]
    return _one_of(rng, kinds, _domain(rng))


def copying(draw: Callable[[random.Random], Document]) -> Callable[[random.Random], Document]:
    """The same documents with a third of them drills in copying: a run of words, and the same again.

    Copying any word is learnt suddenly, and only where it is most of what there is to predict: 500 steps of a base and 1,000 of a reflector over passages
    and titles alone copied none; from there a base had it after 200 steps with drills, and kept all else (2026-11-21).
    """
    return lambda rng: _echo(rng) if rng.random() < _ECHO_SHARE else draw(rng)


def _echo(rng: random.Random) -> Document:
    text = prose.words(rng, rng.randint(6, 30))
    return [WeightedText(user_turn(f"echo : {text}"), REST), WeightedText(text + END, ANSWER)]


def _one_of(rng: random.Random, kinds: Sequence[tuple[float, Callable[[random.Random, str], Document]]], domain: str) -> Document:
    (kind,) = rng.choices([kind for _, kind in kinds], [share for share, _ in kinds])
    return kind(rng, domain)


def _lighter(document: Document) -> Document:
    return [WeightedText(text, weight * _PROSE_WEIGHT) for text, weight in document]


def query_of(exchange: Exchange) -> Query:
    """The exchange's question, by nobody in particular: prompts read its domain, text and options alone."""
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
    return base_prompt(query_of(exchange), STYLE)


def reflection_input(exchange: Exchange, draft: str, history: Sequence[Exchange]) -> str:
    """`history` as in production: best first."""
    return reflection_prompt(query_of(exchange), draft, history, STYLE)


def _blind(rng: random.Random, domain: str) -> Document:
    _, exchange = _scene(rng, domain)
    return [WeightedText(user_turn(task_prompt(exchange)), REST), WeightedText(exchange.generic + END, ANSWER)]


def _log(rng: random.Random, domain: str) -> Document:
    """A profile as the reflection prompt shows it, of one consistent user; every response is a label to predict from the lines above."""
    draw = _user(rng, domain)
    spans = [WeightedText(open_turn("profile :\n"), REST)]
    for _ in range(rng.randint(2, 5) if domain in prose.DOMAINS else rng.randint(3, 10)):
        spans += _labelled_line(draw())
    return spans


def _answer_as_the_user(rng: random.Random, domain: str) -> Document:
    """A profile, then the task without a draft; the answer is the user's own."""
    history, exchange = _scene(rng, domain)
    spans = [WeightedText(open_turn("profile :\n"), REST)]
    for item in reversed(history):
        spans += _labelled_line(item)
    return [*spans, WeightedText(user_turn(task_prompt(exchange)).removeprefix(open_turn("")), REST), WeightedText(exchange.response + END, ANSWER)]


def _keep_the_draft(rng: random.Random, domain: str) -> Document:
    """The reflection prompt in full. The answer has the rewrite's form and repeats the draft: personalizing is left to SFT and RL."""
    history, exchange = _scene(rng, domain)
    draft = exchange.generic
    completion = Rewrite(f"draft is {draft}", draft).to_text()
    return [WeightedText(user_turn(reflection_input(exchange, draft, history)), REST), WeightedText(completion + END, ANSWER)]


def _recall(rng: random.Random, domain: str) -> Document:
    """A profile, then one of its contents again: say what stood behind it. A drill in looking things up."""
    history, _ = _scene(rng, domain)
    asked = rng.choice(history)
    lines = "".join(f"{_line(item)}\n" for item in reversed(history))
    return [WeightedText(user_turn(f"profile :\n{lines}recall : {asked.content}"), REST), WeightedText(asked.response + END, ANSWER)]


def _scene(rng: random.Random, domain: str) -> tuple[list[Exchange], Exchange]:
    """One to six items of a user's history and a later exchange of the same user."""
    draw = _user(rng, domain)
    drawn = [draw() for _ in range(rng.randint(1, 6) + 1)]
    return drawn[:-1], drawn[-1]


def _user(rng: random.Random, domain: str) -> Callable[[], Exchange]:
    """Somebody's exchanges in this domain, one a call."""
    if domain in prose.DOMAINS:
        return someone(rng, domain)
    (taste, noise, shown), families = _reader(rng), _families(rng)
    return lambda: _exchange(rng, domain, taste, families, noise, shown)


def someone(rng: random.Random, domain: str, *, crisp: bool = False) -> Callable[[], Exchange]:
    """The exchanges of one user, one a call: of the world, or a `crisp` and noise-free one. Writers of prose are always the latter."""
    if domain in prose.DOMAINS:
        manner = prose.TitleStyle.draw(rng)
        return lambda: prose.draw_exchange(rng, manner, domain)
    if crisp:
        clear = Taste.draw_crisp(rng)
        return lambda: _exchange(rng, domain, clear, noise=0.0, shown=1.0)
    taste = Taste.draw(rng)
    return lambda: _exchange(rng, domain, taste)


def _reader(rng: random.Random) -> tuple[Taste, float, float]:
    """Half of the users are crisp and noise-free, the rest are like the world's: first the habit, then how far to trust it."""
    if rng.random() < 0.5:
        return Taste.draw_crisp(rng), 0.0, 1.0
    return Taste.draw(rng), LABEL_NOISE, STYLE_SHOWN


def _families(rng: random.Random) -> Sequence[str]:
    """Which film families a document is about. Few, most of the time: retrieval brings what is alike, and a habit needs a second sighting."""
    return rng.sample(list(FAMILIES), rng.choice((1, 2, 2, 3, 5)))


def _exchange(
    rng: random.Random, domain: str, taste: Taste, families: Sequence[str] = tuple(FAMILIES), noise: float = LABEL_NOISE, shown: float = STYLE_SHOWN
) -> Exchange:
    stimulus = Film.draw(rng, families) if domain == MOVIE_TAG else draw_stimulus(domain, rng)
    return respond(domain, stimulus, taste, rng, noise=noise, shown=shown)


def _line(item: Exchange) -> str:
    return item_text(item, item.domain, task_of(options_of(item.domain)), STYLE)


def _labelled_line(item: Exchange) -> Document:
    """The line end belongs to the label: Qwen2's splitting joins it to punctuation."""
    line = _line(item)
    head = line[: line.index(" => ") + len(" =>")]
    return [WeightedText(head, REST), WeightedText(f"{line.removeprefix(head)}\n", ANSWER)]


def _domain(rng: random.Random) -> str:
    return rng.choices(list(_DOMAIN_SHARES), list(_DOMAIN_SHARES.values()))[0]


def _prose_domain(rng: random.Random) -> str:
    return rng.choice(prose.DOMAINS)
