"""What a measurement of learning is made from: what users did, what they ask, and which part of the measurement each question belongs to.

The persona world is cut twice. Users below `trainer.holdout_share`, by hash, are held out, and of the asking time the last third is later than
anything that trains. So: training users' earlier questions train, their later ones (`dev`) choose what a run has to choose, and only held-out
users' later ones judge. A quarter of the users has a short past, some are newcomers, and some drifted.

Real data has no asking time: each held-out author's latest entries judge, each training author's latest entries are `dev`, all that came before trains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from infra.errors import CannotContinue
from schemas.ids import derive, is_held_out
from schemas.interactions import Interaction
from schemas.queries import Query
from traffic.datasets.catalog import open_dataset
from traffic.datasets.steps import Dataset
from traffic.world import Exchange, Persona, PersonaQuestion, World

TENANT = "bench"
#: The share of the asking time that trains; the rest is later.
TRAINS = 2 / 3
#: Held-out authors at least, and the shares that are tried, smallest first, until they are that many.
AUTHORS = 10
SHARES = (0.3, 0.35, 0.4, 0.45, 0.5)


class Split(StrEnum):
    TRAINING = "training"
    DEV = "dev"  # training users, later: chooses k and step counts, trains nothing
    HELDOUT = "heldout"


@dataclass(frozen=True)
class WorldTruth:
    """What the world knows of a question and no model sees. `past` is by interaction id."""

    question: PersonaQuestion
    past: Mapping[str, Exchange]
    drifted: bool
    newcomer: bool


@dataclass(frozen=True)
class SplitQuestion:
    query: Query
    truth: str
    part: Split
    known: WorldTruth | None = None


@dataclass(frozen=True)
class SourceData:
    title: str
    interactions: list[Interaction]
    asks: list[SplitQuestion]
    holdout_share: float


@dataclass(frozen=True)
class Population:
    """A persona world's size. `questions`, `history` and `short` (the past of every fourth user) count per domain."""

    users: int = 240
    questions: int = 12
    history: int = 24
    short: int = 6
    drift: float = 0.25
    newcomers: float = 0.15


def from_world(population: Population, seed: int, holdout_share: float) -> SourceData:
    interactions: list[Interaction] = []
    asks: list[SplitQuestion] = []
    for persona, cut in _personas(population, seed):
        done = persona.interactions()
        interactions += done
        past = {str(one.interaction_id): exchange for one, (_, exchange) in zip(done, persona.past, strict=True)}
        held_out = is_held_out(TENANT, persona.user, holdout_share)
        for question in persona.questions():
            later = question.query.asked_at.timestamp() >= cut
            if held_out and not later:
                continue
            part = Split.HELDOUT if held_out else Split.DEV if later else Split.TRAINING
            asks.append(SplitQuestion(question.query, question.truth, part, WorldTruth(question, past, persona.drifted_at is not None, persona.newcomer)))
    return SourceData(f"persona world, seed {seed}", interactions, asks, holdout_share)


def _personas(population: Population, seed: int) -> Iterator[tuple[Persona, float]]:
    """Each user with the moment from which questions are later than training."""
    long = World(seed, TENANT, population.history, population.questions, drift=population.drift, newcomers=population.newcomers)
    short = replace(long, history=population.short)
    cut = long.end.timestamp() - (1 - TRAINS) * long.asking_days * 86_400
    for number in range(population.users):
        yield (short if number % 4 == 3 else long).persona(number), cut


def from_dataset(path: Path, last: int, per_user: int) -> SourceData:
    """Real data: of every author the latest `last` entries judge or are `dev`; of training authors at most `per_user` earlier ones train.

    An entry is asked for at the time it was made, so it sees what is strictly older. Raises BadData for files that cannot be read and CannotContinue for
    too few authors.
    """
    dataset = open_dataset(path)
    entries = _entries(dataset)
    share = _share([user for user, _ in entries])
    asks: list[SplitQuestion] = []
    for (user, _), own in entries.items():
        asks += _asks(own, is_held_out(TENANT, user, share), last, per_user)
    return SourceData(dataset.title, [entry for own in entries.values() for entry in own], asks, share)


def _asks(own: list[Interaction], held_out: bool, last: int, per_user: int) -> Iterator[SplitQuestion]:
    """Questions by one author in one domain, whose entries come oldest first."""
    cut = max(1, len(own) - last)
    judged = Split.HELDOUT if held_out else Split.DEV
    yield from (SplitQuestion(_query(entry), entry.response, judged) for entry in own[cut:])
    if not held_out:
        yield from (SplitQuestion(_query(entry), entry.response, Split.TRAINING) for entry in own[max(1, cut - per_user) : cut])


def _entries(dataset: Dataset) -> dict[tuple[str, str], list[Interaction]]:
    """All that each user did in each domain of free text, oldest first; a question's own truth is what the user did then."""
    found: dict[tuple[str, str], list[Interaction]] = defaultdict(list)
    of_text: set[str] = set()
    for step in dataset.steps(TENANT):
        if isinstance(step, Interaction):
            found[step.user, step.domain].append(step)
        elif step.truth and not step.query.options and step.feedback:
            query = step.query
            of_text.add(query.domain)
            done = Interaction.observed(
                tenant=TENANT,
                user=query.user,
                source_id=query.query_id,
                domain=query.domain,
                content=query.text,
                response=step.truth,
                occurred_at=step.feedback[0].occurred_at,
            )
            found[query.user, query.domain].append(done)
    return {key: sorted(own, key=lambda entry: (entry.occurred_at, str(entry.interaction_id))) for key, own in found.items() if key[1] in of_text}


def _query(entry: Interaction) -> Query:
    query_id = derive("query", entry.tenant, entry.user, entry.interaction_id)
    return Query(query_id=query_id, tenant=TENANT, user=entry.user, domain=entry.domain, text=entry.content, asked_at=entry.occurred_at)


def _share(users: list[str]) -> float:
    """The smallest share that holds out enough authors."""
    for share in SHARES:
        if sum(is_held_out(TENANT, user, share) for user in {*users}) >= AUTHORS:
            return share
    raise CannotContinue(f"{len({*users})} authors of free text are too few: {AUTHORS} must be held out")
