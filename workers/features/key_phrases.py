"""Key phrases of a text by RAKE (Rose et al. 2010, Rapid Automatic Keyword Extraction), over the words of any script (`schemas.words`).

A phrase is a run of words between stop words and signs. A word scores its degree (the words of all phrases that it is in) over its frequency, and a phrase the
sum of its words. Scripts without blanks have no words to find, so there a phrase is a run of characters between stop words.

Chosen on 2026-11-30 over libraries. YAKE 0.7.3: its licence file says AGPL-3 with a commercial licence, its metadata LGPL and GPL. KeyBERT 0.9.0: embeds
each candidate, some 300 for an abstract, in a process that has no embedder. rake-nltk: last release in 2021.
Stop words are those of stopwordsiso (MIT, no dependencies, 58 languages). Words of sentiment and negation in VADER's lexicon (vaderSentiment, MIT) are no
stop words: `good` and `never` are what a rating depends on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import regex

from schemas.sameness import visible
from schemas.words import tokens_of

#: Words of a phrase, and characters of one in a script without blanks. Longer runs are cut.
MAX_WORDS, MAX_CHARACTERS = 4, 8
#: Words of context on either side of a phrase, within its sentence.
CONTEXT_WORDS = 3

_LETTER = regex.compile(r"\p{L}")
#: The end of a sentence in the scripts of most languages.
_SENTENCE_END = re.compile(r"[.!?…।؟。！？]")


class KeyPhrase(NamedTuple):
    """`context`: the words around it, with the phrase."""

    text: str
    context: str


class _Unit(NamedTuple):
    """A word, a character of a script without blanks, or a run of signs; and where it is."""

    text: str
    start: int
    end: int


class _Run(NamedTuple):
    """Consecutive units, by position."""

    first: int
    last: int


def key_phrases(text: str, languages: Collection[str], limit: int) -> list[KeyPhrase]:
    """At most `limit` different phrases of the text, in lower case. The best first; of equally good ones the earlier."""
    text = " ".join(visible(text).split())
    units = list(_units(text))
    runs = list(_runs(units, stop_words(frozenset(languages))))
    scores = _scores(units, runs)
    found: dict[str, KeyPhrase] = {}
    for run in sorted(runs, key=lambda run: (-sum(scores[word] for word in _words(units, run)), run.first)):
        phrase = text[units[run.first].start : units[run.last].end].lower()
        found.setdefault(phrase, KeyPhrase(phrase, _context(text, units, run)))
        if len(found) == limit:
            break
    return list(found.values())


@cache
def stop_words(languages: frozenset[str]) -> frozenset[str]:
    """Of all the languages, by ISO 639-1 code. Raises ValueError for a language without a list."""
    import stopwordsiso
    from vaderSentiment.vaderSentiment import NEGATE, SentimentIntensityAnalyzer

    if unknown := languages - set(stopwordsiso.langs()):
        raise ValueError(f"no stop words for the languages {sorted(unknown)}; there are some for {', '.join(sorted(stopwordsiso.langs()))}")
    return frozenset(stopwordsiso.stopwords(languages)) - set(SentimentIntensityAnalyzer().lexicon) - set(NEGATE)


def _units(text: str) -> Iterator[_Unit]:
    end = 0
    for token in tokens_of(text):
        start = text.index(token, end)
        end = start + len(token)
        yield _Unit(token, start, end)


def _runs(units: list[_Unit], stops: frozenset[str]) -> Iterator[_Run]:
    """The phrases: runs of words without stop words and signs, cut to the longest length."""
    words = list(_word_runs(units, stops))
    for run in words:
        longest = MAX_CHARACTERS if _is_unspaced(units, run) else MAX_WORDS
        for first in range(run.first, run.last + 1, longest):
            part = _Run(first, min(run.last, first + longest - 1))
            if any(_LETTER.search(word) for word in _words(units, part)):
                yield part


def _word_runs(units: list[_Unit], stops: frozenset[str]) -> Iterator[_Run]:
    position = first = 0
    while position < len(units):
        skipped = _skipped(units, position, stops)
        if skipped:
            if position > first:
                yield _Run(first, position - 1)
            first = position + skipped
        position += skipped or 1
    if position > first:
        yield _Run(first, position - 1)


def _skipped(units: list[_Unit], position: int, stops: frozenset[str]) -> int:
    """Number of units here that are a stop word or signs; 0 if a phrase may go on. Stop words of scripts without blanks have several units."""
    unit = units[position]
    if not any(map(str.isalnum, unit.text)) or unit.text.lower() in stops:
        return 1
    joined = unit.text
    for length, (before, after) in enumerate(pairwise(units[position : position + MAX_WORDS]), start=2):
        if before.end != after.start:
            return 0
        joined += after.text
        if joined in stops:
            return length
    return 0


def _is_unspaced(units: list[_Unit], run: _Run) -> bool:
    return run.last > run.first and units[run.first].end == units[run.first + 1].start


def _scores(units: list[_Unit], runs: list[_Run]) -> dict[str, float]:
    """RAKE's degree over frequency of each word."""
    degrees: Counter[str] = Counter()
    frequencies: Counter[str] = Counter()
    for run in runs:
        for word in (words := _words(units, run)):
            degrees[word] += len(words)
            frequencies[word] += 1
    return {word: degrees[word] / frequencies[word] for word in degrees}


def _words(units: list[_Unit], run: _Run) -> list[str]:
    return [unit.text.lower() for unit in units[run.first : run.last + 1]]


def _context(text: str, units: list[_Unit], run: _Run) -> str:
    first, last = run
    while first > 0 and run.first - first < CONTEXT_WORDS and not _SENTENCE_END.search(units[first - 1].text):
        first -= 1
    while last + 1 < len(units) and last - run.last < CONTEXT_WORDS and not _SENTENCE_END.search(units[last + 1].text):
        last += 1
    return text[units[first].start : units[last].end]
