"""Words of any script: what the readers of a text see as its units.

- A word is a run of letters, digits, `_`, `#`, `'` and `-`, with the marks and joiners that belong to its letters. So the vowel signs of Hindi and the points
  of Hebrew and Arabic stay in their word (UAX #29, WB4), as do Hebrew geresh and gershayim and Armenian's marks inside words.
- A script without blanks between words has no words that code can find without a dictionary. There each character as its reader sees it, a grapheme cluster
  (UAX #29), is a unit: Han, Hiragana, Katakana, Bopomofo, Yi, Tangut, and the South East Asian scripts of line breaking class SA (UAX #14), such as Thai,
  Lao, Khmer and Myanmar.
- A run of other visible characters, such as punctuation and emoji, is a unit too.

Blanks separate units. So do the visible separators of Tibetan, Ethiopic and some ancient scripts. Letter case stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

import regex

from schemas.sameness import visible

#: Characters of scripts without blanks.
_UNSPACED = r"[[\p{L}\p{M}\p{N}]&&[\p{lb=SA}\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Yiii}\p{scx=Tang}\p{scx=Nshu}\p{scx=Kits}]--[\x00-\u02ff]]"
_INSIDE_WORDS = r"_#'\-\u055A-\u055C\u055E\u058A\u05F3\u05F4"
_LETTER = rf"[[\p{{L}}\p{{N}}{_INSIDE_WORDS}]--{_UNSPACED}]"
#: Marks and joiners that follow their letter. Selectors and the enclosing keycap belong to emoji.
_MARK = r"[[\p{M}\u200C\u200D]--[\uFE00-\uFE0F\u20E3]]"
_WORD = rf"{_LETTER}(?:{_LETTER}|{_MARK})*+|(?={_UNSPACED})\X"
#: Tibetan tsheg, Ethiopic wordspace, and the word separators of Aegean, Ugaritic, Old Persian and Phoenician.
_BLANK = r"\s\x1c-\x1f\u0F0B\u0F0C\u1361\U00010100\U00010101\U0001039F\U000103D0\U0001091F"
_WORDS = regex.compile(_WORD, regex.VERSION1)
_TOKENS = regex.compile(rf"{_WORD}|[^\p{{L}}\p{{N}}_{_BLANK}]+", regex.VERSION1)

#: For a text that is reversed: searching for signs at the end would take quadratic time.
_SIGNS_BACKWARDS, _MARKS_OF_A_WORD = re.compile(r"\s*([^\w\s]*)"), regex.compile(rf"\A{_MARK}+", regex.VERSION1)

#: The same units, found several times as fast, of texts that hold only Latin, Greek and Cyrillic letters, punctuation, symbols and emoji.
_PLAIN_WORDS, _PLAIN_TOKENS = re.compile(r"[\w#'-]+"), re.compile(r"[\w#'-]+|[^\w\s]+")
#: Characters of such texts that `visible` never changes, and the parts of emoji, which stay where it leaves them.
_PLAIN = (
    "\\t-\\r\x1c-\x7e\xa0-\xac\xae-\u02ff\u0370-\u0373\u0375-\u037d\u037f-\u0386\u0388-\u0482\u048a-\u052f\u1e00-\u1eff\u2010-\u2027\u2030-\u205e"
    "\u20a0-\u20cf\u2100-\u2125\u2127-\u2129\u212c-\u2328\u232b-\u27ff\u2801-\u2adb\u2add-\u2bff\U0001f000-\U0001faff"
)
_NOT_PLAIN, _NOT_PLAIN_SHOWN = re.compile(f"[^{_PLAIN}]"), re.compile(f"[^{_PLAIN}\u200d\u20e3\ufe0e\ufe0f]")


def tokens_of(text: str) -> list[str]:
    """The text's words, characters, and runs of other visible characters, in order. Canonically equivalent texts have the same ones."""
    return _found(text, _PLAIN_TOKENS, _TOKENS)


def words_of(text: str) -> list[str]:
    """The text's words, and characters of scripts without blanks."""
    return _found(text, _PLAIN_WORDS, _WORDS)


def closing_signs(text: str) -> str:
    """The run of signs at the end of the text, such as `!!`; empty if it ends with a word."""
    backwards = _SIGNS_BACKWARDS.match(visible(text)[::-1])
    return _MARKS_OF_A_WORD.sub("", backwards[1][::-1]) if backwards else ""


def joined_words(inside: str) -> Callable[[str], list[str]]:
    """A function like `words_of`. Its words may hold the characters of the class `inside`, but only between letters and digits."""
    plain, letter = re.compile(rf"\w(?:[\w{inside}]*\w)?"), rf"[[\p{{L}}\p{{N}}_]--{_UNSPACED}]"
    word = rf"{letter}{_MARK}*+(?:(?:{letter}|{_MARK}|[{inside}])*{letter}{_MARK}*+)?"
    return partial(_found, plain=plain, general=regex.compile(rf"{word}|(?={_UNSPACED})\X", regex.VERSION1))


def whole(phrases: Iterable[str]) -> regex.Pattern[str]:
    """Finds the phrases as whole words, the longest first: not inside a longer word, nor before a mark of their last letter."""
    names = "|".join(map(regex.escape, sorted(phrases, key=len, reverse=True)))
    letter = rf"[[\p{{L}}\p{{N}}\p{{M}}_]--{_UNSPACED}]"
    return regex.compile(rf"(?<!{letter})(?:{names})(?!{letter}|\p{{M}})", regex.VERSION1)


def _found(text: str, plain: re.Pattern[str], general: regex.Pattern[str]) -> list[str]:
    if not _NOT_PLAIN.search(text):
        return plain.findall(text)
    text = visible(text)
    return general.findall(text) if _NOT_PLAIN_SHOWN.search(text) else plain.findall(text)
