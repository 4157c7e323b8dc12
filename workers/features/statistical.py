"""The extractor without an LLM: key phrases are features, and the user's words say which of them influenced a response.

A feature's name is a key phrase of the text, its context the words around it. Free text is judged as follows, which is coarser than an LLM's judgement:
a feature influenced the response if a word of its name occurs in it, and the polarity is that of the first sentence with such a word, by VADER (Hutto and
Gilbert 2014; vaderSentiment, MIT, its lexicon is in the package). VADER's lexicon is English with emoji; sentences of other languages are neutral.
TextBlob's lexicon of adjectives missed `broke on day one` and almost `total waste` (2026-11-30).

The same text has the same features on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from infra.errors import BadSetting
from infra.settings.profiles import ProfilesSettings
from schemas.features import CONTEXT_CHARS, MAX_FEATURES, NAME_CHARS, Feature, Judgement, Polarity
from schemas.sameness import folded
from schemas.words import words_of
from workers.features.key_phrases import key_phrases, stop_words

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

#: VADER's own bound: a compound score nearer to 0 is neutral.
NEUTRAL_BELOW = 0.05
#: Characters of a sentence that are judged.
SENTENCE_CHARS = 400

_SENTENCES = re.compile(r"(?<=[.!?…।؟。！？])\s*|\n+")


class StatisticalExtractor:
    """`languages`: ISO 639-1 codes of the users' languages, whose stop words are left out. Raises ValueError for one without a list."""

    def __init__(self, languages: Collection[str], max_features: int = MAX_FEATURES) -> None:
        self._languages = frozenset(languages)
        self._max_features = min(max_features, MAX_FEATURES)
        self._stops = stop_words(self._languages)

    def features_of(self, text: str) -> tuple[Feature, ...]:
        """At most `max_features` features, without judgement. A text without a key phrase has none."""
        phrases = key_phrases(text, self._languages, self._max_features)
        features = (Feature(name=phrase.text[:NAME_CHARS], context=_around(phrase.text, phrase.context)) for phrase in phrases)
        return tuple(features)

    def judged(self, features: Sequence[Feature], response: str) -> tuple[Feature, ...]:
        """The features with a judgement of their influence on the user's response."""
        sentences = [(frozenset(words_of(folded(sentence))), sentence) for sentence in _SENTENCES.split(response)]
        return tuple(feature.model_copy(update={"judgement": self._judgement(feature, sentences)}) for feature in features)

    def _judgement(self, feature: Feature, sentences: Sequence[tuple[frozenset[str], str]]) -> Judgement:
        words = frozenset(words_of(folded(feature.name))) - self._stops
        sentence = next((sentence for found, sentence in sentences if words & found), None)
        return Judgement(influential=sentence is not None, polarity=Polarity.NEUTRAL if sentence is None else self._polarity(sentence))

    def _polarity(self, sentence: str) -> Polarity:
        compound = self._sentiment.polarity_scores(sentence[:SENTENCE_CHARS])["compound"]
        if abs(compound) < NEUTRAL_BELOW:
            return Polarity.NEUTRAL
        return Polarity.POSITIVE if compound > 0 else Polarity.NEGATIVE

    @cached_property
    def _sentiment(self) -> SentimentIntensityAnalyzer:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()


def statistical_extractor(settings: ProfilesSettings) -> StatisticalExtractor:
    """Raises BadSetting for a language without a list of stop words."""
    try:
        return StatisticalExtractor(settings.languages, settings.max_features)
    except ValueError as error:
        raise BadSetting(f"profiles.languages={list(settings.languages)}: {error}") from error


def _around(phrase: str, context: str) -> str:
    """Empty if the context adds nothing to the phrase."""
    return "" if context.lower() == phrase else context[:CONTEXT_CHARS]
