"""Answers of a model about features: used as they are, or refused with the reason."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.feature_extraction import (
    NO_FACTOR,
    Flaw,
    RefusedAnswer,
    features_schema,
    judgements_schema,
    query_features_schema,
    read_features,
    read_judgements,
    read_query_features,
)
from schemas.features import CONTEXT_CHARS, MAX_FEATURES, NAME_CHARS, Factor, Influence, Judgement, Polarity
from tests.support.feature_items import feature

FACTORS = [Factor(factor_id=UUID(int=number), label="any", statistic=Influence(coverage=1, influence=0, polarity=None)) for number in (1, 2)]
TASTE = {"name": "taste", "context": "the flavor"}
JUDGED = {"feature": 1, "influential": True, "polarity": "positive"}


def flaw_of(read: Any, *arguments: Any) -> Flaw:
    with pytest.raises(RefusedAnswer) as refused:
        read(*arguments)
    return refused.value.flaw


def test_features_are_those_of_the_answer() -> None:
    assert read_features({"features": [TASTE, {"name": " the\nprice ", "context": ""}]}) == (feature("taste", context="the flavor"), feature("the price"))
    assert read_features({"features": []}) == ()


@pytest.mark.parametrize(
    ("answer", "flaw"),
    [
        (None, Flaw.NO_OBJECT),
        ({}, Flaw.WRONG_SHAPE),
        ({"features": {"name": "taste"}}, Flaw.WRONG_SHAPE),
        ({"features": ["taste"]}, Flaw.WRONG_SHAPE),
        ({"features": [{"name": "taste"}]}, Flaw.WRONG_SHAPE),
        ({"features": [TASTE, {"name": 5, "context": ""}]}, Flaw.WRONG_SHAPE),
        ({"features": [TASTE | {"context": None}]}, Flaw.WRONG_SHAPE),
        ({"features": [TASTE | {"name": "\ud800"}]}, Flaw.BLANK_NAME),
        ({"features": [TASTE | {"name": " \u200b"}]}, Flaw.BLANK_NAME),
        ({"features": [TASTE | {"name": "x" * (NAME_CHARS + 1)}]}, Flaw.LONG_NAME),
    ],
)
def test_malformed_features_are_refused_with_the_reason(answer: Any, flaw: Flaw) -> None:
    assert flaw_of(read_features, answer) is flaw


def test_a_refusal_names_no_text_of_the_answer() -> None:
    with pytest.raises(RefusedAnswer, match=r"refused: wrong_shape$"):
        read_features({"features": [{"name": "secret"}]})


def test_repeated_features_and_those_beyond_the_limit_are_left_out() -> None:
    many = [{"name": f"feature {number // 2}", "context": "Same" if number % 2 else "same"} for number in range(4 * MAX_FEATURES)]
    assert [found.name for found in read_features({"features": many})] == [f"feature {number}" for number in range(MAX_FEATURES)]


def test_a_long_context_is_cut_between_words() -> None:
    (found,) = read_features({"features": [TASTE | {"context": "word " * 200}]})
    assert CONTEXT_CHARS - 5 < len(found.context) <= CONTEXT_CHARS and set(found.context.split()) == {"word"}


def test_features_of_a_query_have_the_factors_that_the_prompt_numbered() -> None:
    answer = {"features": [TASTE | {"factor": "F2"}, {"name": "new", "context": "", "factor": NO_FACTOR}]}
    assert [(each.feature.name, each.factor_id) for each in read_query_features(answer, FACTORS)] == [("taste", UUID(int=2)), ("new", None)]


@pytest.mark.parametrize("factor", ["F3", "F0", "taste", ""])
def test_a_factor_that_was_not_shown_is_refused(factor: str) -> None:
    assert flaw_of(read_query_features, {"features": [TASTE | {"factor": factor}]}, FACTORS) is Flaw.UNKNOWN_FACTOR


def test_judgements_belong_to_numbered_features() -> None:
    answer = {"judgements": [{"feature": 2, "influential": False, "polarity": "neutral"}, JUDGED]}
    judged = read_judgements(answer, [feature("taste"), feature("price")])
    assert [each.judgement for each in judged] == [
        Judgement(influential=True, polarity=Polarity.POSITIVE),
        Judgement(influential=False, polarity=Polarity.NEUTRAL),
    ]


@pytest.mark.parametrize(
    ("judgements", "flaw"),
    [
        ([], Flaw.NOT_EACH_ONCE),
        ([JUDGED, JUDGED], Flaw.NOT_EACH_ONCE),
        ([JUDGED, JUDGED | {"feature": 2}], Flaw.NOT_EACH_ONCE),
        ([JUDGED | {"feature": 0}], Flaw.NOT_EACH_ONCE),
        ([JUDGED | {"feature": "1"}], Flaw.WRONG_SHAPE),
        ([JUDGED | {"influential": "true"}], Flaw.WRONG_SHAPE),
        ([JUDGED | {"polarity": "good"}], Flaw.WRONG_SHAPE),
        ("yes", Flaw.WRONG_SHAPE),
    ],
)
def test_judgements_that_are_not_one_for_each_feature_are_refused(judgements: Any, flaw: Flaw) -> None:
    assert flaw_of(read_judgements, {"judgements": judgements}, [feature("taste")]) is flaw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["features", "judgements", "name", "context", "factor", "feature"]), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["features", "judgements"]), JSON))
def test_any_answer_is_read_or_refused(answer: dict[str, Any]) -> None:
    for read in (read_features, lambda found: read_query_features(found, FACTORS), lambda found: read_judgements(found, [feature("taste")])):
        with contextlib.suppress(RefusedAnswer):
            assert len(read(answer)) <= MAX_FEATURES


@pytest.mark.parametrize("schema", [features_schema(), query_features_schema(2), judgements_schema()])
def test_schemas_are_strict_in_the_way_that_endpoints_ask(schema: dict[str, Any]) -> None:
    """OpenAI's strict mode: every field is required, and no other is allowed."""

    def check(part: Any) -> None:
        if part.get("type") == "object":
            assert part["additionalProperties"] is False and part["required"] == list(part["properties"])
            for field in part["properties"].values():
                check(field)
        elif part.get("type") == "array":
            check(part["items"])
        else:
            assert part.keys() <= {"type", "enum"}

    check(schema)


def test_the_schema_of_a_query_allows_the_numbered_factors_only() -> None:
    assert query_features_schema(2)["properties"]["features"]["items"]["properties"]["factor"]["enum"] == ["F1", "F2", NO_FACTOR]
