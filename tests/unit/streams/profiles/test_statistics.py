"""The statistics of one factor."""

from __future__ import annotations

from uuid import UUID

from schemas.features import Influence, Polarity, PolarityShares, Propensities
from schemas.tasks import Task
from streams.profiles.statistics import FactorCounts
from tests.support.feature_items import feature

POSITIVE, NEGATIVE = Polarity.POSITIVE, Polarity.NEGATIVE


def counts(*answers: str, names: tuple[str, ...] = ("taste",)) -> FactorCounts:
    found = FactorCounts(UUID(int=1), names[0])
    for name in names:
        found.count_feature(feature(name))
    for answer in answers:
        found.count_item(answer)
    return found


def test_a_propensity_is_the_share_of_items_with_the_answer() -> None:
    statistic = counts("4", "5", "4", "2").factor(Task.RATING).statistic
    assert isinstance(statistic, Propensities) and statistic.items == 4
    assert [(answer.answer, answer.items, answer.propensity) for answer in statistic.answers] == [("4", 2, 0.5), ("2", 1, 0.25), ("5", 1, 0.25)]


def test_influence_counts_features_and_polarity_only_influential_ones() -> None:
    found = counts("a long text", "another one")
    for polarity, influential in ((POSITIVE, True), (POSITIVE, True), (NEGATIVE, True), (NEGATIVE, False)):
        found.count_feature(feature("smell", polarity=polarity, influential=influential))
    shares = PolarityShares(positive=2 / 3, neutral=0, negative=1 / 3)
    assert found.factor(Task.TEXT).statistic == Influence(coverage=2, influence=3, polarity=shares)


def test_without_an_influential_feature_there_is_no_polarity() -> None:
    assert counts("a text").factor(Task.TEXT).statistic == Influence(coverage=1, influence=0, polarity=None)


def test_the_label_is_the_most_frequent_name() -> None:
    assert counts("4", names=("taste", "flavor", "flavor")).label == "flavor"


def test_of_equally_frequent_names_the_first_features_name_is_the_label() -> None:
    assert counts("4", names=("taste", "flavor", "aroma")).label == "taste"
    assert counts("4", names=("taste", "flavor", "flavor", "aroma", "aroma")).label == "aroma"


def test_what_is_taken_back_leaves_no_trace() -> None:
    before, found = counts("4", "5"), counts("4", "5")
    for sign in (1, -1):
        found.count_item("1", sign)
        found.count_feature(feature("smell", polarity=NEGATIVE), sign)
    assert found == before == before.copy()
