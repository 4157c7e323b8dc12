"""A synthetic world of personas: users with hidden tastes, their past, their questions, and their true answers.

Three domains in the shapes of LaMP-2, LaMP-3 and LaMP-7. A user's answer depends on three things only:

- the *stimulus* (a film, a product review, a note), drawn for every exchange from one distribution for all users;
- the user's `Taste`, drawn once per persona: a favourite tag per family, a rating bias, a text style;
- noise: a share of tags and ratings is wrong, and each part of a text style is sometimes left out.

Tastes may drift: for a share of users (`World.drift`) part of the taste is drawn again in the middle of their past, so older items mislead.
A share of users (`World.newcomers`) is new: two items per domain, all of them late.

The answer without the user (`generic`) and the personal answer without noise (`ideal`) are both known. They are the floor and the ceiling of any method.
Everything follows from `World.seed` through `random.Random`: no clock, no hash seed, no network.
The texts are small templates on purpose: models with under a million parameters learn them in minutes. They are not samples of English.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

from schemas.contexts import Context, HistoryItem
from schemas.drafts import Draft
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.positions import Source
from schemas.queries import Query
from schemas.tasks import MOVIE_TAGS, STARS

MOVIE_TAG, PRODUCT_RATING, TWEET_PARAPHRASE = "movie_tag", "product_rating", "tweet_paraphrase"
DOMAINS = (MOVIE_TAG, PRODUCT_RATING, TWEET_PARAPHRASE)
#: The answers that a domain allows. Empty: free text.
OPTIONS: Mapping[str, tuple[str, ...]] = {MOVIE_TAG: MOVIE_TAGS, PRODUCT_RATING: STARS, TWEET_PARAPHRASE: ()}

#: Share of tags and ratings that do not follow the user's taste.
LABEL_NOISE = 0.12
#: Probability that each part of a user's text style shows.
STYLE_SHOWN = 0.85
#: Number of a newcomer's items per domain.
NEWCOMER_ITEMS = 2
#: The last second of the default world. Fixed, so that ids, dates and texts are the same on every machine and day.
WORLD_END = datetime(2026, 11, 1, tzinfo=UTC)

FAMILIES: Mapping[str, tuple[str, str, str]] = {
    "humour": ("comedy", "dark comedy", "social commentary"),
    "heart": ("romance", "classic", "based on a book"),
    "tension": ("action", "violence", "twist ending"),
    "wonder": ("sci-fi", "fantasy", "dystopia"),
    "mind": ("psychology", "thought-provoking", "true story"),
}
#: A film's plot determines its family. Its manner (`_MANNERS`, one pair per lean) determines which of the three tags is generic.
#: Plots of a family share words, and heroes are plain, so that a sentence embedder finds films of the same family. MiniLM's nearest item has the same
#: family in 0.91 of cases; with colourful heroes and plots it was 0.58 (240 queries, 24 items per user, 2026-11-21).
_PLOTS: Mapping[str, tuple[str, ...]] = {
    "humour": (
        "tells a silly joke at a wedding",
        "plays a silly prank on the mayor",
        "tells a joke at a funeral",
        "plays the clown at a posh dinner",
        "laughs at a silly parrot",
        "swaps twins as a silly prank",
    ),
    "heart": (
        "falls in love by the pier",
        "writes a love letter",
        "misses a lost love",
        "dances with a lost love",
        "kisses a rival in the rain",
        "keeps a promise of love",
    ),
    "tension": (
        "fights a hired killer",
        "defuses a hidden bomb",
        "escapes from armed killers",
        "hunts armed robbers",
        "chases a killer by car",
        "robs a bank with a bomb",
    ),
    "wonder": (
        "wakes a magic dragon",
        "travels to a magic planet",
        "lands on an alien moon",
        "meets an alien robot",
        "fights alien robots",
        "guards a magic planet",
    ),
    "mind": (
        "doubts a lost memory",
        "hears a voice in the mind",
        "studies a troubled mind",
        "confesses a dark memory",
        "rebuilds a broken mind",
        "follows a patient's memory",
    ),
}
_MANNERS = (("lightly", "with charm"), ("bitterly", "with dread"), ("sharply", "with purpose"))
_HEROES = ("a man", "a woman", "a girl", "a boy", "a child", "a stranger", "a neighbor", "somebody")
_PRODUCTS = ("kettle", "lamp", "headset", "backpack", "toaster", "router", "blender", "camera", "chair", "jacket", "drill", "speaker")
_VERDICTS: Mapping[int, tuple[str, str, str]] = {
    1: ("broke on day one", "total waste", "never worked"),
    2: ("feels cheap", "stopped after a week", "too noisy"),
    3: ("does the job", "nothing special", "works okay"),
    4: ("quite good", "works well", "solid build"),
    5: ("absolutely perfect", "best i ever had", "love it"),
}
_SUBJECTS = ("the bus", "my phone", "the coffee", "this song", "the weather", "my boss", "the game", "that movie", "my dog", "the party", "the gym", "my exam")
_ADJECTIVES = ("great", "slow", "boring", "loud", "strange", "lovely", "awful", "short", "long", "cold", "funny", "new")
_TIMES = ("today", "tonight", "this morning", "again", "at last", "right now")
_INTENSIFIERS = ("super", "totally", "so", "pretty")
_OPENERS = ("honestly", "haha", "ugh", "ok so", "well")
_CLOSERS = ("lol", "!!", "...", ":)", "#mood")


@dataclass(frozen=True)
class Style:
    """A text style. The default is the plain style."""

    intensifier: str = "very"
    opener: str = ""
    closer: str = ""
    lower: bool = False

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """Each part differs from the plain style with probability 0.85. Half of the users write in lower case."""

        def own(choices: Sequence[str], plain: str) -> str:
            return rng.choice(choices) if rng.random() < 0.85 else plain

        return cls(own(_INTENSIFIERS, "very"), own(_OPENERS, ""), own(_CLOSERS, ""), lower=rng.random() < 0.5)

    def faded(self, rng: random.Random, shown: float) -> Style:
        """The same style, each part but letter case left out with probability 1 - `shown`."""

        def kept(part: str, plain: str) -> str:
            return part if rng.random() < shown else plain

        return Style(kept(self.intensifier, "very"), kept(self.opener, ""), kept(self.closer, ""), self.lower)


@dataclass(frozen=True)
class Taste:
    """A user's hidden taste: a favourite tag per family (None: the film's generic tag), a rating bias, a text style."""

    favourites: Mapping[str, str | None]
    bias: int
    style: Style

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        """A favourite tag in four of five families, and a bias of one star for four of five users."""
        favourites = {family: rng.choice(tags) if rng.random() < 0.8 else None for family, tags in FAMILIES.items()}
        return cls(favourites, rng.choice((-1, -1, 0, 1, 1)), Style.draw(rng))

    @classmethod
    def draw_crisp(cls, rng: random.Random) -> Self:
        """A favourite tag in every family and a bias of up to two stars: a clearer signal for pretraining than the world's own users."""
        favourites = {family: rng.choice(tags) for family, tags in FAMILIES.items()}
        return cls(favourites, rng.randint(-2, 2), Style.draw(rng))

    def drifted(self, rng: random.Random) -> Taste:
        """The same user months later: three of the five families, the bias and half of the style are drawn again."""
        new, changed = Taste.draw(rng), set(rng.sample(list(FAMILIES), 3))
        favourites = {family: (new if family in changed else self).favourites[family] for family in FAMILIES}
        style = Style(self.style.intensifier, new.style.opener, new.style.closer, self.style.lower)
        return Taste(favourites, new.bias, style)


@dataclass(frozen=True)
class Film:
    """A film's description. The response is one of LaMP-2's tags, of the film's family."""

    text: str
    family: str
    lean: int  # which of the family's three tags the description suggests

    @classmethod
    def draw(cls, rng: random.Random, families: Sequence[str] = tuple(FAMILIES)) -> Self:
        family, lean = rng.choice(families), rng.randrange(3)
        return cls(f"{rng.choice(_HEROES)} {rng.choice(_PLOTS[family])} {rng.choice(_MANNERS[lean])}", family, lean)

    def generic(self) -> str:
        return FAMILIES[self.family][self.lean]

    def ideal(self, taste: Taste) -> str:
        return taste.favourites[self.family] or self.generic()

    def response(self, taste: Taste, rng: random.Random, *, noise: float, shown: float) -> str:
        """With probability `noise` a random tag of the family, else the ideal one."""
        return rng.choice(FAMILIES[self.family]) if rng.random() < noise else self.ideal(taste)


@dataclass(frozen=True)
class Review:
    """A product review's text. The response is a score of 1 to 5."""

    text: str
    stars: int  # the score of the words alone

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        stars = rng.randint(1, 5)
        first, second = rng.sample(_VERDICTS[stars], 2)
        return cls(f"{rng.choice(_PRODUCTS)} {first} , {second}", stars)

    def generic(self) -> str:
        return str(self.stars)

    def ideal(self, taste: Taste) -> str:
        return str(_clamp(self.stars + taste.bias))

    def response(self, taste: Taste, rng: random.Random, *, noise: float, shown: float) -> str:
        """With probability `noise` one star more or less than the ideal score, within the scale."""
        ideal = int(self.ideal(taste))
        return str(_clamp(ideal + rng.choice((-1, 1))) if rng.random() < noise else ideal)


@dataclass(frozen=True)
class Note:
    """A plain note. The response is the note in the user's style."""

    subject: str
    adjective: str
    time: str

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        return cls(rng.choice(_SUBJECTS), rng.choice(_ADJECTIVES), rng.choice(_TIMES))

    @property
    def text(self) -> str:
        return f"{self.subject} is {self.adjective} {self.time}"

    def in_style(self, style: Style) -> str:
        words = f"{style.opener} {self.subject} is {style.intensifier} {self.adjective} {self.time}".strip()
        return f"{words if style.lower else words[0].upper() + words[1:]} {style.closer}".strip()

    def generic(self) -> str:
        return self.in_style(Style())

    def ideal(self, taste: Taste) -> str:
        return self.in_style(taste.style)

    def response(self, taste: Taste, rng: random.Random, *, noise: float, shown: float) -> str:
        return self.in_style(taste.style.faded(rng, shown))


#: What a user responds to. A model sees only `text`. `generic` is the best answer without the user's taste, `ideal` the user's answer without noise, and
#: `response` the one with noise.
Stimulus = Film | Review | Note


@dataclass(frozen=True)
class Exchange:
    """A stimulus and its answers: generic, ideal, and the user's own with noise."""

    domain: str
    content: str
    generic: str
    ideal: str
    response: str


def draw_stimulus(domain: str, rng: random.Random) -> Stimulus:
    """A random stimulus of the domain, uniform over its templates."""
    if domain == MOVIE_TAG:
        return Film.draw(rng)
    return Review.draw(rng) if domain == PRODUCT_RATING else Note.draw(rng)


def respond(domain: str, stimulus: Stimulus, taste: Taste, rng: random.Random, *, noise: float = LABEL_NOISE, shown: float = STYLE_SHOWN) -> Exchange:
    """The exchange of a user of this taste with the stimulus."""
    response = stimulus.response(taste, rng, noise=noise, shown=shown)
    return Exchange(domain, stimulus.text, stimulus.generic(), stimulus.ideal(taste), response)


@dataclass(frozen=True)
class PersonaQuestion:
    """A query with its user's own answer (`truth`), the generic and the ideal answer."""

    query: Query
    truth: str
    generic: str
    ideal: str


@dataclass(frozen=True)
class Persona:
    """One user of a world: a hidden taste, a dated past, and later questions. Times increase strictly over both.

    `taste` is the taste at the time of the questions. Before `drifted_at` the user had another.
    """

    tenant: str
    user: str
    taste: Taste
    past: tuple[tuple[datetime, Exchange], ...]
    asked: tuple[tuple[datetime, Exchange], ...]
    seed: int
    drifted_at: datetime | None = None
    newcomer: bool = False

    def interactions(self) -> tuple[Interaction, ...]:
        """The past as interactions, oldest first."""
        return tuple(
            Interaction.observed(
                tenant=self.tenant,
                user=self.user,
                source_id=f"world-{self.seed}-{number}",
                domain=exchange.domain,
                content=exchange.content,
                response=exchange.response,
                occurred_at=at,
            )
            for number, (at, exchange) in enumerate(self.past)
        )

    def questions(self) -> tuple[PersonaQuestion, ...]:
        """The questions after the past, oldest first."""
        return tuple(self._question(number, at, exchange) for number, (at, exchange) in enumerate(self.asked))

    def query(self, at: datetime, exchange: Exchange, *source_id: object) -> Query:
        """The exchange's stimulus as a query. The id is derived from the user and `source_id`."""
        return Query(
            query_id=derive("query", self.tenant, self.user, *source_id),
            tenant=self.tenant,
            user=self.user,
            domain=exchange.domain,
            text=exchange.content,
            options=OPTIONS[exchange.domain],
            asked_at=at,
        )

    def _question(self, number: int, at: datetime, exchange: Exchange) -> PersonaQuestion:
        query = self.query(at, exchange, f"world-{self.seed}-{number}")
        return PersonaQuestion(query, truth=exchange.response, generic=exchange.generic, ideal=exchange.ideal)


@dataclass(frozen=True)
class World:
    """A seeded population. Persona number i is the same whether it is drawn alone or with others.

    `history` and `questions` count per domain. The past fills `past_days` and ends `asking_days` before `end`; the questions follow.
    Domains are shuffled over the times. `drift` and `newcomers` are shares of users, drawn by number and independently of everything else, so the other
    users do not change with a share.
    """

    seed: int = 0
    tenant: str = "demo"
    history: int = 24
    questions: int = 4
    domains: tuple[str, ...] = DOMAINS
    end: datetime = WORLD_END
    past_days: int = 180
    asking_days: int = 14
    drift: float = 0.0
    newcomers: float = 0.0

    def persona(self, number: int) -> Persona:
        rng, fate = _random(f"world/{self.seed}/{number}"), _random(f"fate/{self.seed}/{number}")
        drifts, newcomer = fate.random() < self.drift, fate.random() < self.newcomers
        taste = Taste.draw(rng)
        asking_from = self.end - timedelta(days=self.asking_days)
        begin = asking_from - timedelta(days=self.past_days / 6 if newcomer else self.past_days)
        history = min(self.history, NEWCOMER_ITEMS) if newcomer else self.history
        if not drifts:
            past = self._exchanges(taste, rng, history, begin, asking_from)
            asked = self._exchanges(taste, rng, self.questions, asking_from, self.end)
            return Persona(self.tenant, f"u{number:04d}", taste, past, asked, self.seed, None, newcomer)
        moment, later = begin + (asking_from - begin) / 2, taste.drifted(fate)
        past = self._exchanges(taste, rng, history // 2, begin, moment) + self._exchanges(later, rng, history - history // 2, moment, asking_from)
        asked = self._exchanges(later, rng, self.questions, asking_from, self.end)
        return Persona(self.tenant, f"u{number:04d}", later, past, asked, self.seed, moment, newcomer)

    def personas(self, count: int) -> Iterator[Persona]:
        return (self.persona(number) for number in range(count))

    def _exchanges(self, taste: Taste, rng: random.Random, per_domain: int, start: datetime, end: datetime) -> tuple[tuple[datetime, Exchange], ...]:
        domains = [domain for domain in self.domains for _ in range(per_domain)]
        rng.shuffle(domains)
        seconds = sorted(rng.sample(range(int((end - start).total_seconds())), len(domains)))
        times = (start + timedelta(seconds=second) for second in seconds)
        return tuple((at, respond(domain, draw_stimulus(domain, rng), taste, rng)) for at, domain in zip(times, domains, strict=True))


def _clamp(stars: int) -> int:
    return min(5, max(1, stars))


def _random(seed: str) -> random.Random:
    """A generator seeded by text: `random.Random` takes its SHA-512, so it is the same in every process."""
    return random.Random(seed)  # noqa: S311 - a reproducible simulation, not a secret


def tweet_contexts(users: int, seed: int, tenant: str, items: int) -> list[Context]:
    """One question of each user, with `items` items. The drafts name `tenant` as their base model."""
    world = World(seed=seed, tenant=tenant, history=items, questions=1, domains=(TWEET_PARAPHRASE,))
    return [_context(world.persona(number), tenant, items) for number in range(users)]


def with_query_id(context: Context, query_id: UUID) -> Context:
    """The same question as another query."""
    draft = context.draft
    return context.model_copy(update={"draft": draft.model_copy(update={"query": draft.query.model_copy(update={"query_id": query_id})})})


def _context(persona: Persona, base_model: str, items: int) -> Context:
    (question,) = persona.questions()
    latest = enumerate(persona.interactions()[-items:])
    return Context(
        draft=Draft(query=question.query, answer=question.generic, base_model=base_model, base_ms=1),
        items=tuple(HistoryItem.of(past, 0.5, Source(topic="interactions", partition=0, offset=offset)) for offset, past in latest),
        k_max=items,
        retrieve_ms=1,
    )
