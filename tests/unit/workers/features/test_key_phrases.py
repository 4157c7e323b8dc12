"""Key phrases: runs of words between stop words, in any script."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.sameness import visible
from workers.features.key_phrases import MAX_CHARACTERS, MAX_WORDS, key_phrases, stop_words

ENGLISH = ("en",)


def phrases(text: str, *languages: str) -> list[str]:
    return [phrase.text for phrase in key_phrases(text, languages or ENGLISH, 12)]


def test_phrases_lie_between_stop_words_and_signs() -> None:
    assert set(phrases("A woman tells a silly joke at the Wedding, with dread!")) == {"woman tells", "silly joke", "wedding", "dread"}


def test_words_of_sentiment_and_negation_are_kept() -> None:
    assert phrases("it is good") == ["good"] and phrases("it is not the best") == ["not", "best"]
    assert {"the", "is", "and"} <= stop_words(frozenset(ENGLISH))


def test_longer_phrases_come_first_and_then_earlier_ones() -> None:
    assert phrases("A queen rules over the busy honey bees with a crown.") == ["busy honey bees", "queen rules", "crown"]


def test_a_phrase_is_found_once_with_its_first_context() -> None:
    first, *others = key_phrases("We love gun control. They hate gun control.", ENGLISH, 12)
    assert first == ("love gun control", "We love gun control") and [phrase.text for phrase in others] == ["hate gun control"]
    assert phrases("Bees and bees and BEES") == ["bees"]


def test_a_context_ends_with_its_sentence() -> None:
    contexts = {phrase.text: phrase.context for phrase in key_phrases("The kettle stopped. It was the cheap one of the two in our shop", ENGLISH, 12)}
    assert contexts["kettle stopped"] == "The kettle stopped" and contexts["cheap"] == "It was the cheap one of the"


def test_long_runs_are_cut() -> None:
    text = " ".join(f"alpha{letter}" for letter in "abcdefghij")
    assert all(len(phrase.split()) <= MAX_WORDS for phrase in phrases(text)) and len(phrases(text)) == 3


def test_numbers_and_signs_alone_are_no_phrases() -> None:
    assert phrases("42 , 1,000 !!! 😀 --") == []
    assert phrases("") == []


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("ru", "Фильм рассказывает о молодом человеке, который ищет любовь", {"фильм рассказывает", "молодом человеке", "ищет любовь"}),
        ("ar", "قصة شاب يبحث عن الحب في زمن الحرب", {"زمن الحرب"}),
        ("hi", "युद्ध में प्रेम की तलाश", {"युद्ध", "प्रेम", "तलाश"}),
        ("he", "הספר על אהבה", {"אהבה"}),
        ("zh", "他在战争中寻找爱情的故事", {"寻找爱情"}),
        ("ja", "戦争中に愛を探す", {"戦争中", "愛"}),
    ],
)
def test_phrases_of_other_scripts(language: str, text: str, found: set[str]) -> None:
    assert found <= set(phrases(text, language))


def test_a_language_without_stop_words_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['xx'\].*'?en"):
        key_phrases("a text", ("en", "xx"), 3)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.integers(1, 4))
def test_any_text_has_phrases_that_are_in_it(text: str, limit: int) -> None:
    found = key_phrases(text, ("en", "zh", "th"), limit)
    shown = " ".join(visible(text).split())
    assert len(found) <= limit and found == key_phrases(text, ("en", "zh", "th"), limit)
    assert all(phrase.context in shown and phrase.text in shown.lower() and phrase.text in phrase.context.lower() for phrase in found)


def test_the_longest_text_is_read() -> None:
    assert phrases("电影" * 16_384, "zh") and len(phrases("电影" * 100, "zh")[0]) <= MAX_CHARACTERS
    assert phrases("bees fly " * 3_640)
