"""Strategies: the methods that personalize an answer, and the rule that chooses one for each query.

Most strategies read the user's history before they ask the base model. `ASKS_FIRST` names the others. `workers/strategies` has the rest: what each
strategy reads, what it asks, and how it reads the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints

from schemas.ids import bucket
from schemas.messages import Record


class Strategy(StrEnum):
    """A method. The variants `_cot` ask for a chain of thought before the answer."""

    ZERO_SHOT = "zero_shot"  # the base answer as it is; the control arm
    ZERO_SHOT_COT = "zero_shot_cot"
    ICL = "icl"  # in-context learning: the same items for every query of a user
    RAG = "rag"  # retrieval-augmented generation: the items that are most similar to the query
    RAG_COT = "rag_cot"
    PAG = "pag"  # profile-augmented generation: a summary of the history, then retrieved items
    PAG_COT = "pag_cot"
    HYDRA = "hydra"  # reranked items, then the best of several answers, by heads of each user
    RPM = "rpm"  # reasoning-level personalization: features and factors with statistics, and examples with reasoning
    RPO = "rpo"  # reflective personalization: a reflection model rewrites the base answer


#: Strategies that ask the base model before they read anything of the user, so a draft or an answer follows from the query alone.
ASKS_FIRST = frozenset({Strategy.ZERO_SHOT, Strategy.ZERO_SHOT_COT, Strategy.RPO})

#: Name of a comparison of strategies: the salt of the hash that gives each user one of them.
ExperimentName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class StrategyChoice(Record):
    """The strategy of one query. It is chosen once, by the base worker, and every later message of the query carries it."""

    strategy: Strategy
    experiment: ExperimentName | None = None  # the comparison that assigned it to the user; None: the query named it, or there is only one


def choose_strategy(named: Strategy | None, weights: Mapping[Strategy, float], experiment: str, tenant: str, user: str) -> StrategyChoice:
    """The strategy that the query names, else the user's own share of `weights`, whose sum is positive. A user keeps it while these arguments stay."""
    if named is not None:
        return StrategyChoice(strategy=named)
    shares = [(strategy, weights[strategy]) for strategy in Strategy if weights.get(strategy, 0) > 0]
    if len(shares) == 1:
        return StrategyChoice(strategy=shares[0][0])
    left = bucket(tenant, user, f"strategies {experiment}") * sum(weight for _, weight in shares)
    for strategy, weight in shares[:-1]:
        left -= weight
        if left < 0:
            return StrategyChoice(strategy=strategy, experiment=experiment)
    return StrategyChoice(strategy=shares[-1][0], experiment=experiment)
