"""When two texts are the same, and when a text is blank: the one normalization before every comparison of an answer with a truth or an option.

- `visible`: the text as its reader sees it. Scores of free text count its words.
- `normalized`: equal for texts that are the same label, rating or answer. Letter case and punctuation stay, because they are part of a user's style.
- `folded`: `normalized` without letter case.
- `is_blank`: whether the text has no visible character, so that it is no answer, truth or option.

`schemas.tasks` compares answers with options. It ignores quotes and letter case only if exactly one option then matches.

Invisible are control and format characters, noncharacters, and what Unicode lists as `Default_Ignorable_Code_Point` (DerivedCoreProperties.txt): zero-width
and bidirectional marks, soft hyphens, byte order marks, tags. Three kinds of them change what a reader sees, so they stay where they do:

- a joiner (ZWJ, ZWNJ) between letters of a cursive or Indic script, as Persian, Hindi and Bengali need it (UAX #31, 2.3);
- a joiner and tags inside an emoji sequence (UTS #51);
- a variation selector after an emoji. `normalized` drops it, because it selects a glyph and no other emoji (UTS #51, 2).

The Hangul fillers and the Braille blank count as spaces: their own glyph is empty. Unassigned characters stay: they may be new ones, which readers see.
Canonically equivalent texts, such as NFC and NFD, are the same (UAX #15). Of the compatibility mappings only those of width, ligatures, position and
typesetting are applied: `５` is `5`, `ﬁ` is `fi`, `…` is `...`, `㎏` is `kg`. NFKC would also apply those that change the meaning: superscripts, subscripts,
fractions, circled characters and mathematical alphabets. Here `2⁵` is not `25`, and `½`, `①` and `ℝ` stay.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import groupby

import regex

_QUOTES = frozenset({'""', "''", "``", "“”", "”“", "””", "„“", "„”", "‘’", "’‘", "’’", "‚‘", "‚’", "«»", "»«", "‹›", "›‹", "「」", "『』"})

#: Characters with an empty glyph of some width that Unicode does not call white space.
_FILLERS = "\u115f\u1160\u3164\uffa0\u2800"
#: Letters and marks beside which a joiner has a meaning: of scripts that join letters, and of Indic scripts.
_JOINED = r"[[\p{L}\p{M}]&&[\p{jt=D}\p{jt=L}\p{jt=R}\P{InSC=Other}]--[\p{Thai}\p{Lao}]]"
#: UTS #51, ED-16: a zwj element ends in an emoji, a skin tone or a selector.
_EMOJI_JOINER = r"(?<=\p{Extended_Pictographic}[\uFE0F\p{EMod}]?)\u200D(?=\p{Extended_Pictographic})"
#: UTS #51, ED-14a: the flag of a subdivision, such as Scotland: a black flag, the tags of up to six letters or digits, and the end tag.
_TAG = r"[\U000E0030-\U000E0039\U000E0061-\U000E007A]"
_FLAG_TAG = rf"(?<=\U0001F3F4{_TAG}{{0,6}})(?:{_TAG}(?={_TAG}{{0,5}}\U000E007F)|(?<={_TAG})\U000E007F)"
_KEPT = rf"{_FLAG_TAG} | {_EMOJI_JOINER} | (?<={_JOINED}\p{{Mn}}{{0,3}})[\u200C\u200D](?={_JOINED})"
_SELECTED_EMOJI = r"(?<=\p{Emoji})[\uFE0E\uFE0F]"
_INVISIBLE = r"[[\p{Cc}\p{Cf}\p{Cs}\p{DI}\p{NChar}\u2800]--[\p{PCM}\t-\r\x1c-\x1f\x85]]"
_FLAGS = regex.VERSION1 | regex.VERBOSE
_NOT_SHOWN = regex.compile(rf"(?!{_KEPT} | {_SELECTED_EMOJI}){_INVISIBLE}", _FLAGS)
_NOT_COMPARED = regex.compile(rf"(?!{_KEPT}){_INVISIBLE}", _FLAGS)
#: Every invisible character, and others that are rare. Most texts hold none, and this class is much faster to search than the properties.
_PERHAPS_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x9f\xad\u034f\u0600-\u061c\u06dd\u070f\u0890-\u0891\u08e2\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\U000110bd-\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001d17a\U0001fffe-\U0001ffff\U0002fffe-\U0010ffff]"
)
#: Characters whose compatibility mapping is applied: all but <super>, <sub>, <fraction>, <circle> and <font> (UAX #44, 5.7.3).
_MAPPED = regex.compile(r"[\p{dt=com}\p{dt=wide}\p{dt=nar}\p{dt=sml}\p{dt=vert}\p{dt=sqr}\p{dt=nb}\p{dt=init}\p{dt=med}\p{dt=fin}\p{dt=iso}]", regex.VERSION1)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
#: UAX #15, 13: no script needs more than 30 marks in a row.
_MANY_MARKS, _SHORT_CHARS = regex.compile(r"\p{M}{31,}"), 1_000


def visible(text: str) -> str:
    """The text in NFC, without invisible characters. White space stays as it is."""
    return _shown(text, _NOT_SHOWN, maps=False)


def normalized(text: str, *, keep_quotes: bool = False) -> str:
    """The form in which texts are compared: one form of each character, nothing invisible, single spaces, no quotes around the whole.

    Quotes with nothing between them stay.
    """
    plain = " ".join(_shown(text, _NOT_COMPARED, maps=True).split())
    while not keep_quotes and len(plain) > 2 and plain[0] + plain[-1] in _QUOTES and (inside := plain[1:-1].strip()):
        plain = inside
    return plain


def folded(text: str) -> str:
    """Normalized, without letter case."""
    plain = normalized(text)
    return plain.casefold() if plain.isascii() else _shown(plain.casefold(), _NOT_COMPARED, maps=True)


def is_blank(text: str) -> bool:
    """Whether the text has no visible character: it is empty, or consists of white space and invisible characters."""
    return not visible(text).strip()


def _shown(text: str, invisible: regex.Pattern[str], *, maps: bool) -> str:
    if text.isascii():
        return _CONTROL.sub("", text)
    text = _with_sorted_marks(text)
    if maps and not unicodedata.is_normalized("NFKC", text):
        text = _with_sorted_marks(_mapped(text))
    text = unicodedata.normalize("NFC", text)
    if not _PERHAPS_INVISIBLE.search(text):
        return text

    def shown_character(found: re.Match[str]) -> str:
        if not invisible.match(text, found.start()):
            return found[0]
        return " " if found[0] in _FILLERS else ""

    shown = _PERHAPS_INVISIBLE.sub(shown_character, text)
    return text if shown == text else _shown(shown, invisible, maps=maps)


def _mapped(text: str) -> str:
    """The text in NFD, after the compatibility mappings."""
    mapped: str = _MAPPED.sub(lambda found: _mapping(found[0]), unicodedata.normalize("NFD", text))
    return mapped


@lru_cache(maxsize=4096)  # there are some 2,000
def _mapping(character: str) -> str:
    _, *codes = unicodedata.decomposition(character).split() or ("", f"{ord(character):X}")
    mapped = "".join(chr(int(code, 16)) for code in codes)
    return mapped if mapped == character else _mapped(mapped)


def _with_sorted_marks(text: str) -> str:
    """The text with long runs of marks in canonical order. `unicodedata.normalize` sorts them too, in quadratic time: seconds for the longest texts."""
    return _MANY_MARKS.sub(_in_canonical_order, text) if len(text) > _SHORT_CHARS else text


def _in_canonical_order(marks: regex.Match[str]) -> str:
    """The marks as UAX #15 orders them."""
    decomposed = unicodedata.normalize  # of one character at a time, so that no run is long
    characters = [part for mark in marks[0] for part in decomposed("NFD", mark)]
    runs = groupby(characters, key=lambda character: unicodedata.combining(character) == 0)
    return "".join(character for starters, run in runs for character in (run if starters else sorted(run, key=unicodedata.combining)))
