"""The extractor without an LLM."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import MAX_FEATURES, Judgement, Polarity
from schemas.messages import MAX_TEXT_CHARS
from tests.support.feature_items import feature
from workers.features.statistical import StatisticalExtractor

EXTRACTOR = StatisticalExtractor(["en"])


def judged(name: str, response: str) -> Judgement | None:
    (found,) = EXTRACTOR.judged([feature(name)], response)
    return found.judgement


def test_features_are_key_phrases_with_the_words_around_them() -> None:
    found = {each.name: each.context for each in EXTRACTOR.features_of("A woman tells a silly joke at a wedding")}
    assert found == {"woman tells": "A woman tells a silly joke", "silly joke": "woman tells a silly joke at a wedding", "wedding": "joke at a wedding"}


def test_a_context_that_adds_nothing_is_empty() -> None:
    assert EXTRACTOR.features_of("Kettle feels cheap") == (feature("kettle feels cheap"),)


def test_the_number_of_features_is_bounded() -> None:
    text = ". ".join(f"Word{letter} thing" for letter in "abcdefghijklmnopqrstuvwxyz")
    assert len(EXTRACTOR.features_of(text)) == MAX_FEATURES
    assert len(StatisticalExtractor(["en"], 3).features_of(text)) == 3
    assert EXTRACTOR.features_of("a " * (MAX_TEXT_CHARS // 2)) == ()


@pytest.mark.parametrize(
    ("name", "response", "polarity"),
    [
        ("gun control", "Guns kill. Gun control is a wonderful idea!", Polarity.NEUTRAL),
        ("the CONTROL room", "They say: control is awful. I love it.", Polarity.NEGATIVE),
        ("coffee", "the coffee is super great today :)", Polarity.POSITIVE),
        ("coffee", "le café est froid. The coffee has a name", Polarity.NEUTRAL),
    ],
)
def test_a_feature_whose_words_the_response_takes_up_is_influential(name: str, response: str, polarity: Polarity) -> None:
    found = judged(name, response)
    assert found is not None and found.influential
    if name != "gun control":
        assert found.polarity is polarity


def test_stop_words_in_common_are_no_influence() -> None:
    assert judged("the end of war", "the beginning of it") == Judgement(influential=False, polarity=Polarity.NEUTRAL)
    assert judged("war", "warm weather") == Judgement(influential=False, polarity=Polarity.NEUTRAL)


def test_the_polarity_is_that_of_the_sentence_with_the_feature() -> None:
    response = "The food was awful. I love the view."
    assert [judged(name, response) for name in ("food", "view")] == [
        Judgement(influential=True, polarity=Polarity.NEGATIVE),
        Judgement(influential=True, polarity=Polarity.POSITIVE),
    ]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_has_the_same_features_each_time(text: str, response: str) -> None:
    found = EXTRACTOR.features_of(text)
    assert found == EXTRACTOR.features_of(text)
    again = EXTRACTOR.judged(found, response)
    assert [each.name for each in again] == [each.name for each in found] and all(each.judgement for each in again)
