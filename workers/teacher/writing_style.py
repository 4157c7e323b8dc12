"""How a text is written, apart from what it is about: what a user's example can show of a rewrite.

A rewrite that says what the draft says is dressed differently: there single words and marks tell (`dress`). One that says it anew, as a title does
beside the first words of its abstract, shares no such words with any other text of the user; what carries over is its form (`form`).
"""

from __future__ import annotations

import re

#: Two texts say the same when they share this much of their words (the F-measure of the two sets).
SHARED_WORDS = 0.5
#: Upper bounds of the length classes, in words.
SHORT, MEDIUM = 6, 12
#: Of the words long enough to be capitalized in a title, so many are.
TITLE_SHARE = 0.8
_TITLE_WORD_CHARS = 4
_ASKING = frozenset({"who", "what", "when", "where", "why", "how", "which", "is", "are", "do", "does", "can", "could", "should", "will", "would"})


def is_supported(query: str, draft: str, truth: str, content: str, shown: str) -> bool:
    """Whether the step from draft to truth is one that the example shows: `shown`, what the user made of `content`."""
    if _say_the_same(truth, draft) or _say_the_same(truth, query):
        before, after, example = dress(draft, query), dress(truth, query), dress(shown, content)
        changed = after ^ before  # what the user adds to the draft or leaves out of it
        return bool(changed & (example ^ before)) if changed else example == before
    plain, written, habits = form(draft), form(truth), form(shown)
    gained = written - plain
    return bool(gained & habits) if gained else habits == plain


def dress(text: str, source: str) -> frozenset[str]:
    """The words and marks that its source lacks, and letter case."""
    return frozenset({*(set(_tokens(text)) - set(_tokens(source))), f"<{letter_case(text)}>"})


def form(text: str) -> frozenset[tuple[str, str]]:
    """One value for each class of manner that does not depend on what the text is about."""
    words = _words(text)
    opening = words[0] if words else ""
    closing = re.search(r"[^\w\s]*\s*$", text)
    return frozenset(
        {
            ("case", letter_case(text)),
            ("opening", opening),
            ("closing", closing.group().strip() if closing else ""),
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


def _say_the_same(one: str, other: str) -> bool:
    left, right = set(_words(one)), set(_words(other))
    return 2 * len(left & right) >= SHARED_WORDS * (len(left) + len(right))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w#'-]+", text.lower())


def _tokens(text: str) -> list[str]:
    """Words with their hash or apostrophe, and runs of marks, folded to lower case."""
    return re.findall(r"[\w#'-]+|[^\s\w]+", text.lower())
