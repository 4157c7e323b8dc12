"""Labels of HYDRA's training rows: whether an item helped the base model, and whether a candidate is right.

HYDRA compares cleaned texts by substring: for the reranker it asks whether the generation is inside the target, so an empty answer counts as right.
Here an answer is read (`schemas.tasks.read_answer`) and scored as everywhere else in this project, by the reward of its domain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import mean

from infra.errors import CannotContinue
from schemas.domains import Domains
from schemas.measures import MeasureFailed
from schemas.queries import Query
from schemas.sameness import normalized
from schemas.tasks import read_answer

#: The score of a right answer.
FULL = 1.0


def score(answer: str, truth: str, query: Query, domains: Domains) -> float:
    """The answer's reward in [0, 1]. `truth` is in the query's spelling. A blank answer and one outside the options have 0.

    Raises CannotContinue if the domain's own measure fails.
    """
    read = read_answer(answer, query.options)
    if read is None:
        return 0.0
    try:
        return domains.reward(query.domain, query.task).score(read, truth, query.options)
    except MeasureFailed as error:
        raise CannotContinue(f"no label for an answer of {query.domain}: {error}") from None


def helped(scores: Sequence[float], groups: Sequence[Hashable]) -> list[int]:
    """1 for each full score, and for each one strictly above the mean of its group, else 0. Members of a group need not be consecutive."""
    return [int(score == FULL or above) for score, above in zip(scores, above_mean(scores, groups), strict=True)]


def above_mean(values: Sequence[float], groups: Sequence[Hashable]) -> list[int]:
    """1 for each value strictly above the mean of its group, else 0, in the order of the values.

    A group of equal values has no 1.
    """
    members: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    # `mean` rounds the exact mean once; a rounded sum could put it below values that are all equal
    means = {group: mean(of_group) for group, of_group in members.items()}
    return [int(value > means[group]) for value, group in zip(values, groups, strict=True)]


def is_truth(candidate: str, truth: str) -> bool:
    """Whether a candidate is the same text as the truth."""
    return normalized(candidate) == normalized(truth)
