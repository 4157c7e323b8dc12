"""The source data of a measurement of learning: interactions, and questions with their split.

The persona world is split by user and by time. Users below `trainer.holdout_share`, by hash, are held out, and the last third of the asking time is
later than all training data. Training users' earlier questions are for training, their later ones (`dev`) for choices such as k, and held-out
users' later ones for evaluation. A quarter of the users has a short past, some are newcomers, and some drifted.

Real data has no asking time: the latest entries of held-out authors are for evaluation, those of training authors are `dev`, and earlier ones are for training.
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
#: The share of the asking time with training questions.
TRAINS = 2 / 3
#: Minimum number of held-out authors. The first of the shares that holds out that many is used.
AUTHORS = 10
SHARES = (0.3, 0.35, 0.4, 0.45, 0.5)


class Split(StrEnum):
    TRAINING = "training"
    DEV = "dev"  # later questions of training users: for the choice of k and step counts
    HELDOUT = "heldout"


@dataclass(frozen=True)
class WorldTruth:
    """Facts about a question that no model sees. `past` is by interaction id."""

    question: PersonaQuestion
    past: Mapping[str, Exchange]
    drifted: bool
    newcomer: bool


@dataclass(frozen=True)
class SplitQuestion:
    query: Query
    truth: str
    split: Split
    world_truth: WorldTruth | None = None


@dataclass(frozen=True)
class SourceData:
    title: str
    interactions: list[Interaction]
    questions: list[SplitQuestion]
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
    questions: list[SplitQuestion] = []
    for persona, cut in _personas(population, seed):
        own = persona.interactions()
        interactions += own
        past = {str(item.interaction_id): exchange for item, (_, exchange) in zip(own, persona.past, strict=True)}
        held_out = is_held_out(TENANT, persona.user, holdout_share)
        for question in persona.questions():
            later = question.query.asked_at.timestamp() >= cut
            if held_out and not later:
                continue
            split = Split.HELDOUT if held_out else Split.DEV if later else Split.TRAINING
            questions.append(SplitQuestion(question.query, question.truth, split, WorldTruth(question, past, persona.drifted_at is not None, persona.newcomer)))
    return SourceData(f"persona world, seed {seed}", interactions, questions, holdout_share)


def _personas(population: Population, seed: int) -> Iterator[tuple[Persona, float]]:
    """Each user, with the time from which questions are later than training."""
    long = World(seed, TENANT, population.history, population.questions, drift=population.drift, newcomers=population.newcomers)
    short = replace(long, history=population.short)
    cut = long.end.timestamp() - (1 - TRAINS) * long.asking_days * 86_400
    for number in range(population.users):
        yield (short if number % 4 == 3 else long).persona(number), cut


def from_dataset(path: Path, last: int, per_user: int) -> SourceData:
    """Real data. The latest `last` entries of each author are for evaluation or `dev`; at most `per_user` earlier ones of training authors are for training.

    The time of a question is the time of its entry, so it has only older entries as history. Raises BadData for unreadable files, and CannotContinue for
    too few authors.
    """
    dataset = open_dataset(path)
    entries = _entries(dataset)
    share = _share([user for user, _ in entries])
    questions: list[SplitQuestion] = []
    for (user, _), own in entries.items():
        questions += _questions(own, is_held_out(TENANT, user, share), last, per_user)
    return SourceData(dataset.title, [entry for own in entries.values() for entry in own], questions, share)


def _questions(own: list[Interaction], held_out: bool, last: int, per_user: int) -> Iterator[SplitQuestion]:
    """Questions from one author's entries in one domain, oldest first."""
    cut = max(1, len(own) - last)
    split = Split.HELDOUT if held_out else Split.DEV
    yield from (SplitQuestion(_query(entry), entry.response, split) for entry in own[cut:])
    if not held_out:
        yield from (SplitQuestion(_query(entry), entry.response, Split.TRAINING) for entry in own[max(1, cut - per_user) : cut])


def _entries(dataset: Dataset) -> dict[tuple[str, str], list[Interaction]]:
    """Each user's interactions in each domain of free text, oldest first. A question with its truth counts as an interaction."""
    by_user_and_domain: dict[tuple[str, str], list[Interaction]] = defaultdict(list)
    of_text: set[str] = set()
    for step in dataset.steps(TENANT):
        if isinstance(step, Interaction):
            by_user_and_domain[step.user, step.domain].append(step)
        elif step.truth and not step.query.options and step.feedback:
            query = step.query
            of_text.add(query.domain)
            interaction = Interaction.observed(
                tenant=TENANT,
                user=query.user,
                source_id=query.query_id,
                domain=query.domain,
                content=query.text,
                response=step.truth,
                occurred_at=step.feedback[0].occurred_at,
            )
            by_user_and_domain[query.user, query.domain].append(interaction)
    return {key: sorted(own, key=lambda entry: (entry.occurred_at, str(entry.interaction_id))) for key, own in by_user_and_domain.items() if key[1] in of_text}


def _query(entry: Interaction) -> Query:
    query_id = derive("query", entry.tenant, entry.user, entry.interaction_id)
    return Query(query_id=query_id, tenant=TENANT, user=entry.user, domain=entry.domain, text=entry.content, asked_at=entry.occurred_at)


def _share(users: list[str]) -> float:
    """The smallest share that holds out enough authors."""
    for share in SHARES:
        if sum(is_held_out(TENANT, user, share) for user in {*users}) >= AUTHORS:
            return share
    raise CannotContinue(f"too few authors of free text: {len({*users})}, of whom {AUTHORS} must be held out")
