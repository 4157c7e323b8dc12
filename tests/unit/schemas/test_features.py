"""Features, items and factors as records."""

from __future__ import annotations

from uuid import UUID

import pytest
from pydantic import ValidationError

from schemas.features import (
    MAX_FEATURES,
    NAME_CHARS,
    AnswerPropensity,
    Factor,
    Feature,
    Influence,
    ItemFeatures,
    Propensities,
    UserFactors,
    features_text,
)
from tests.support.feature_items import at, feature, item


def factor(number: int, label: str, items: int) -> Factor:
    statistic = Propensities(items=items, answers=(AnswerPropensity(answer="comedy", items=items, propensity=1),))
    return Factor(factor_id=UUID(int=number), label=label, statistic=statistic)


def test_the_text_of_features_holds_their_contexts() -> None:
    assert features_text([feature("taste", context="the flavor"), feature("price")]) == "taste: the flavor; price"


@pytest.mark.parametrize("name", ["", " \u200b", "x" * (NAME_CHARS + 1)])
def test_a_feature_has_a_visible_name_of_bounded_length(name: str) -> None:
    with pytest.raises(ValidationError):
        Feature(name=name)


def test_an_item_has_a_response_and_a_bounded_number_of_features() -> None:
    with pytest.raises(ValidationError, match="no_response"):
        item(1, [], response=" \u200b")
    with pytest.raises(ValidationError, match="too_long"):
        item(1, ["taste"] * (MAX_FEATURES + 1))


def test_answers_are_equal_if_they_are_the_same_text() -> None:
    assert item(1, [], response=' "dark  comedy"').answer == item(2, [], response="dark comedy").answer


def test_an_item_without_content_has_the_features_of_its_response() -> None:
    assert item(1, [], response="just a post", content=" ").source_text == "just a post"
    assert item(1, [], response="5", content="a kettle").source_text == "a kettle"


def test_items_are_ordered_by_time_and_then_by_id() -> None:
    late, early, same_time = item(1, [], hour=2), item(2, [], hour=1), item(3, [], hour=1)
    assert sorted([late, same_time, early], key=lambda each: each.order) == [early, same_time, late]


def test_factors_of_most_items_come_first_whatever_the_order_they_were_found_in() -> None:
    factors = [factor(1, "price", 2), factor(2, "taste", 5), factor(3, "smell", 2)]
    found, other = UserFactors.of(factors, 7, at(1)), UserFactors.of(reversed(factors), 7, at(1))
    assert [each.label for each in found.factors] == ["taste", "price", "smell"] and found == other


def test_another_statistic_is_another_version() -> None:
    versions = {
        UserFactors.of([factor(1, "taste", 2)], 2, at(1)).version,
        UserFactors.of([factor(1, "taste", 3)], 3, at(1)).version,
        UserFactors.of([factor(1, "taste", 2)], 3, at(1)).version,
        UserFactors.of([factor(1, "price", 2)], 2, at(1)).version,
    }
    assert len(versions) == 4


def test_a_factor_is_found_by_its_id() -> None:
    factors = UserFactors.of([factor(1, "taste", 2)], 2, at(1))
    assert factors.factor(UUID(int=1)) == factors.factors[0]
    assert factors.factor(UUID(int=2)) is None is factors.factor(None)


def test_records_are_the_same_after_json() -> None:
    influence = Factor(factor_id=UUID(int=4), label="tone", statistic=Influence(coverage=2, influence=0, polarity=None))
    factors = UserFactors.of([factor(1, "taste", 2), influence], 2, at(1))
    assert UserFactors.model_validate_json(factors.model_dump_json()) == factors
    found = item(1, [feature("taste", context="the flavor")])
    assert ItemFeatures.model_validate_json(found.model_dump_json()) == found
