"""Statistics of one factor, from counts that an item can be added to and removed from (RPM, structured user modeling).

An item counts once for a factor, however many of its features belong to the factor. Influence and polarity count features, as in the paper.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self, TypeVar
from uuid import UUID

from schemas.features import AnswerPropensity, Factor, Feature, Influence, Polarity, PolarityShares, Propensities
from schemas.tasks import Task

K = TypeVar("K")


@dataclass
class FactorCounts:
    """What is known of one factor. `founder` is the name of its first feature."""

    factor_id: UUID
    founder: str
    items: int = 0
    influence: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # items by answer
    names: Counter[str] = field(default_factory=Counter)  # features by name
    polarity: Counter[Polarity] = field(default_factory=Counter)  # influential features

    def count_feature(self, feature: Feature, sign: int = 1) -> None:
        """Once for each feature. `sign` -1 takes it back."""
        _add(self.names, feature.name, sign)
        if feature.judgement and feature.judgement.influential:
            self.influence += sign
            _add(self.polarity, feature.judgement.polarity, sign)

    def count_item(self, answer: str, sign: int = 1) -> None:
        """Once for each item with one or more features of this factor. `sign` -1 takes it back."""
        self.items += sign
        _add(self.answers, answer, sign)

    def factor(self, task: Task) -> Factor:
        """The factor with the statistic of the task. Its items are at least 1: a factor without items does not exist."""
        statistic = self.influences() if task is Task.TEXT else self.propensities()
        return Factor(factor_id=self.factor_id, label=self.label, statistic=statistic)

    @property
    def label(self) -> str:
        """The most frequent name; of equally frequent ones the first feature's, else the first in the alphabet."""
        return min(self.names, key=lambda name: (-self.names[name], name != self.founder, name))

    def propensities(self) -> Propensities:
        """Propensity(y, F) = items with F and answer y, over items with F."""
        in_order = sorted(self.answers.items(), key=lambda counted: (-counted[1], counted[0]))
        answers = tuple(AnswerPropensity(answer=answer, items=count, propensity=count / self.items) for answer, count in in_order)
        return Propensities(items=self.items, answers=answers)

    def influences(self) -> Influence:
        """Coverage, influence, and the shares of polarity among influential features."""
        shares = {polarity.value: self.polarity[polarity] / self.influence for polarity in Polarity} if self.influence else None
        return Influence(coverage=self.items, influence=self.influence, polarity=PolarityShares(**shares) if shares else None)

    def copy(self) -> Self:
        counters = self.answers.copy(), self.names.copy(), self.polarity.copy()
        return type(self)(self.factor_id, self.founder, self.items, self.influence, *counters)


def _add(counts: Counter[K], key: K, sign: int) -> None:
    """Without keys of count 0, so that counts with equal content are equal."""
    counts[key] += sign
    if not counts[key]:
        del counts[key]
