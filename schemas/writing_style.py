"""Features of how a text is written, independent of its topic: what an example of the user can show of a rewrite.

A rewrite may reword the draft; then single words and punctuation are compared (`surface`). Or it is a new text, such as a title for an abstract, and has no
words in common with the user's other texts; then only its form can be compared (`form`).
"""

from __future__ import annotations

import re

from schemas.sameness import visible
from schemas.words import closing_signs, tokens_of, words_of

#: A text rewords another if they share this much of their words (F-measure of the two sets).
SHARED_WORDS = 0.5
#: Upper bounds of the length classes, in words.
SHORT, MEDIUM = 6, 12
#: Share of capitalized words in a title, among words of _TITLE_WORD_CHARS or more.
TITLE_SHARE = 0.8
_TITLE_WORD_CHARS = 4
_ASKING = frozenset({"who", "what", "when", "where", "why", "how", "which", "is", "are", "do", "does", "can", "could", "should", "will", "would"})


def is_supported(query: str, draft: str, truth: str, content: str, shown: str) -> bool:
    """Whether the example supports the step from draft to truth. `shown` is what the user wrote about `content`."""
    if _rewords(truth, draft) or _rewords(truth, query):
        before, after, example = surface(draft, query), surface(truth, query), surface(shown, content)
        changed = after ^ before  # what the user adds to the draft or removes
        return bool(changed & (example ^ before)) if changed else example == before
    plain, written, habits = form(draft), form(truth), form(shown)
    gained = written - plain
    return bool(gained & habits) if gained else habits == plain


def surface(text: str, source: str) -> frozenset[str]:
    """Words and punctuation that `source` lacks, and letter case."""
    return frozenset({*(set(_tokens(text)) - set(_tokens(source))), f"<{letter_case(text)}>"})


def form(text: str) -> frozenset[tuple[str, str]]:
    """One value per class of form."""
    text = visible(text)
    words = _words(text)
    opening = words[0] if words else ""
    return frozenset(
        {
            ("case", letter_case(text)),
            ("opening", opening),
            ("closing", closing_signs(text)),
            ("colon", str(bool(re.search(r"\w\W?: +\S", text)))),
            ("question", str("?" in text or opening in _ASKING)),
            ("length", "short" if len(words) <= SHORT else "medium" if len(words) <= MEDIUM else "long"),
        }
    )


def letter_case(text: str) -> str:
    """`upper`, `lower`, `title`, `sentence` (its first letter is a capital), or `mixed`."""
    if text.isupper() or text.islower():
        return "upper" if text.isupper() else "lower"
    if not (letters := [character for character in text if character.isalpha()]) or not letters[0].isupper():
        return "mixed"
    long = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) >= _TITLE_WORD_CHARS]
    capitals = sum(word[0].isupper() for word in long)
    return "title" if len(long) > 1 and capitals >= TITLE_SHARE * len(long) else "sentence"


def _rewords(text: str, source: str) -> bool:
    left, right = set(_words(text)), set(_words(source))
    return 2 * len(left & right) >= SHARED_WORDS * (len(left) + len(right))


def _words(text: str) -> list[str]:
    return words_of(text.lower())


def _tokens(text: str) -> list[str]:
    """Words with # or apostrophe, and runs of punctuation, in lower case."""
    return tokens_of(text.lower())
