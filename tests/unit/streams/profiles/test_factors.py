"""Factors follow from the items alone: not from the order in which they arrive, nor from items that arrive twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import AnswerPropensity, Factor, Feature, Influence, ItemFeatures, Polarity, PolarityShares, Propensities, UserFactors
from schemas.ids import derive
from schemas.tasks import Task
from streams.profiles.centroids import Rounded
from streams.profiles.factors import FactorHistory
from tests.support.feature_items import at, directions, feature, item, labelled

DIMENSION, THRESHOLD = 3, 0.8
COMEDY, DRAMA = "comedy", "drama"
NO_VECTORS: Rounded = np.zeros((0, DIMENSION), dtype=np.int16)
EAST, NORTH, UP = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@dataclass(frozen=True)
class Given:
    """An item and its vectors."""

    item: ItemFeatures
    vectors: Rounded


def history(*items: Given, threshold: float = THRESHOLD) -> FactorHistory:
    built = FactorHistory(threshold, DIMENSION)
    for each in items:
        built.add(each.item, each.vectors)
    return built


def given_item(number: int, *found: tuple[str, Sequence[float]], response: str = COMEDY, hour: int | None = None) -> Given:
    vectors = directions(*(vector for _, vector in found)) if found else NO_VECTORS
    return Given(item(number, [name for name, _ in found], response, hour=hour), vectors)


# Directions that are far from each other, near to each other, and at angles around the threshold.
AXES = st.lists(st.integers(-2, 2), min_size=DIMENSION, max_size=DIMENSION).filter(any)
FEATURES = st.builds(
    lambda name, polarity, influential: feature(name, polarity=polarity, influential=influential),
    st.sampled_from(["taste", "smell", "price"]),
    st.sampled_from([None, *Polarity]),
    st.booleans(),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Given]:
    """Items with different ids. Several may have the same time."""
    built = []
    for number in range(draw(st.integers(0, 9))):
        found = draw(st.lists(st.tuples(FEATURES, AXES), max_size=4))
        vectors = directions(*(vector for _, vector in found)) if found else NO_VECTORS
        answer, hour = draw(st.sampled_from([COMEDY, DRAMA, " comedy "])), draw(st.integers(0, 6))
        built.append(Given(item(number, [each for each, _ in found], answer, hour=hour), vectors))
    return built


ARRIVALS = histories().flatmap(lambda items: st.tuples(st.just(items), st.permutations([*items, *items[::2]])))
EXAMPLES = settings(max_examples=100, deadline=None)


@EXAMPLES
@given(ARRIVALS)
def test_items_in_any_order_and_repeated_give_what_a_rebuild_gives(arrivals: tuple[list[Given], list[Given]]) -> None:
    items, arriving = arrivals
    incremental, rebuilt = history(*arriving), history(*sorted(items, key=lambda each: each.item.order))
    assert len(incremental) == len(items)
    probes = directions(EAST, NORTH, UP, (1, 1, 0), (1, 1, 1))
    for hour in (0, 2, 3, 7):
        for task in Task:
            assert incremental.factors_before(at(hour), task) == rebuilt.factors_before(at(hour), task) == by_hand(items, hour, task)
        asked = [feature("asked")] * len(probes)
        assert incremental.attached(asked, probes, at(hour)) == rebuilt.attached(asked, probes, at(hour))
    for each in items:
        id = each.item.interaction_id
        assert incremental.features_of(id) == rebuilt.features_of(id)
        assert incremental.factors_through(id, Task.LABEL) == rebuilt.factors_through(id, Task.LABEL)


@EXAMPLES
@given(histories(), st.integers(0, 7))
def test_items_from_the_moment_on_change_nothing(items: list[Given], hour: int) -> None:
    before = [each for each in items if each.item.occurred_at < at(hour)]
    assert history(*items).factors_before(at(hour), Task.LABEL) == history(*before).factors_before(at(hour), Task.LABEL)


@EXAMPLES
@given(histories())
def test_propensities_of_a_factor_sum_to_one_and_polarities_too(items: list[Given]) -> None:
    for factor in history(*items).factors_before(at(99), Task.LABEL).factors:
        assert isinstance(factor.statistic, Propensities)
        assert sum(answer.items for answer in factor.statistic.answers) == factor.items
        assert math.isclose(sum(answer.propensity for answer in factor.statistic.answers), 1)
    for factor in history(*items).factors_before(at(99), Task.TEXT).factors:
        assert isinstance(factor.statistic, Influence) and (factor.statistic.polarity is None) == (factor.statistic.influence == 0)
        if factor.statistic.polarity:
            assert math.isclose(sum(factor.statistic.polarity.model_dump().values()), 1)


def test_an_item_counts_once_for_a_factor_with_two_of_its_features() -> None:
    built = history(given_item(1, ("taste", EAST), ("flavor", EAST)), given_item(2, ("taste", EAST), response=DRAMA))
    statistic = labelled(built.factors_before(at(9), Task.LABEL))["taste"].statistic
    assert isinstance(statistic, Propensities)
    assert statistic.items == 2 and {answer.answer: answer.propensity for answer in statistic.answers} == {COMEDY: 0.5, DRAMA: 0.5}


def test_a_late_item_moves_the_features_of_later_ones() -> None:
    between = (1, 1, 0)  # joins no factor of EAST, whose cosine is 0.71
    built = history(given_item(1, ("east", EAST)), given_item(3, ("between", between)))
    assert labelled(built.factors_before(at(9), Task.LABEL)).keys() == {"east", "between"}
    late = given_item(2, ("nearer", (3, 1, 0)))  # moves the centroid, so that `between` joins it
    assert built.add(late.item, late.vectors) == 1
    assert [factor.items for factor in built.factors_before(at(9), Task.LABEL).factors] == [3]


def test_an_item_in_order_makes_no_other_count_again_and_a_repeat_is_none() -> None:
    built = history(given_item(1, ("east", EAST)))
    new = given_item(2, ("north", NORTH))
    assert built.add(new.item, new.vectors) == 0
    version = built.factors_before(at(9), Task.LABEL).version
    other = Given(item(2, ["found later"], DRAMA, hour=0), directions(UP))
    assert built.add(other.item, other.vectors) is None
    assert built.factors_before(at(9), Task.LABEL).version == version


def test_an_item_at_the_moment_itself_is_not_counted() -> None:
    built = history(given_item(1, ("east", EAST)))
    assert built.factors_before(at(1), Task.LABEL).items == 0
    assert built.factors_before(at(1.001), Task.LABEL).items == 1


def test_a_path_of_an_item_sees_the_item_and_nothing_later() -> None:
    built = history(given_item(1, ("east", EAST)), given_item(2, ("east", EAST)), given_item(3, ("east", EAST)))
    through = built.factors_through(UUID(int=3), Task.LABEL)
    assert (through.items, through.until) == (2, at(2))
    assert through == built.factors_before(at(2.5), Task.LABEL)


def test_a_query_feature_far_from_every_factor_has_none_and_founds_none() -> None:
    built = history(given_item(1, ("east", EAST)))
    found = built.attached([feature("east"), feature("up")], directions(EAST, UP), at(9))
    (factor,) = built.factors_before(at(9), Task.LABEL).factors
    assert [each.factor_id for each in found] == [factor.factor_id, None]


def test_an_item_without_features_counts_as_an_item() -> None:
    factors = history(given_item(1)).factors_before(at(9), Task.LABEL)
    assert (factors.items, factors.factors) == (1, ())


def test_the_version_is_that_of_the_statistics() -> None:
    built = history(given_item(1, ("east", EAST)))
    first = built.factors_before(at(9), Task.LABEL).version
    changed = given_item(2, ("east", EAST), response=DRAMA)
    built.add(changed.item, changed.vectors)
    assert built.factors_before(at(1.5), Task.LABEL).version == first != built.factors_before(at(9), Task.LABEL).version


@pytest.mark.parametrize("vectors", [NO_VECTORS, directions((1, 0, 0, 0))])
def test_a_vector_is_needed_for_each_feature(vectors: Rounded) -> None:
    with pytest.raises(ValueError, match="1 features need"):
        history().add(item(1, ["east"]), vectors)


class Member(NamedTuple):
    """One feature of a factor. `number`: its position in its item."""

    item: ItemFeatures
    number: int
    row: list[int]

    @property
    def feature(self) -> Feature:
        return self.item.features[self.number]


def by_hand(items: Sequence[Given], hour: int, task: Task) -> UserFactors:
    """The definition, in whole numbers of Python: the items before the hour in order of time, each feature with the nearest sum of vectors."""
    counted = sorted((each for each in items if each.item.occurred_at < at(hour)), key=lambda each: each.item.order)
    factors: list[list[Member]] = []
    for each in counted:
        for number, row in enumerate(each.vectors.tolist()):
            cosines = [cosine([sum(axis) for axis in zip(*(member.row for member in factor), strict=True)], row) for factor in factors]
            best = max(cosines, default=-1.0)
            if best < THRESHOLD:
                factors.append([])
            factors[cosines.index(best) if best >= THRESHOLD else -1].append(Member(each.item, number, row))
    return UserFactors.of((factor_by_hand(factor, task) for factor in factors), len(counted), counted[-1].item.occurred_at if counted else None)


def cosine(total: Sequence[int], row: Sequence[int]) -> float:
    product, squares, length = (sum(a * b for a, b in zip(left, right, strict=True)) for left, right in ((total, row), (total, total), (row, row)))
    return product / (math.sqrt(squares) * math.sqrt(length))


def factor_by_hand(members: Sequence[Member], task: Task) -> Factor:
    names = Counter(member.feature.name for member in members)
    label = min(names, key=lambda name: (-names[name], name != members[0].feature.name, name))
    answers = Counter({member.item.interaction_id: member.item.response.strip() for member in members}.values())
    judged = [member.feature.judgement for member in members]
    polarities = [judgement.polarity for judgement in judged if judgement and judgement.influential]
    total, influential = sum(answers.values()), len(polarities)
    shares = PolarityShares(**{str(polarity): polarities.count(polarity) / influential for polarity in Polarity}) if influential else None
    in_order = sorted(answers, key=lambda answer: (-answers[answer], answer))
    propensities = tuple(AnswerPropensity(answer=answer, items=answers[answer], propensity=answers[answer] / total) for answer in in_order)
    discrete, text = Propensities(items=total, answers=propensities), Influence(coverage=total, influence=influential, polarity=shares)
    return Factor(factor_id=derive("factor", members[0].item.interaction_id, members[0].number), label=label, statistic=text if task is Task.TEXT else discrete)
