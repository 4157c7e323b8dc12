"""Made-up prose: passages of English-looking words, and titles for them in one user's style.

The persona world has only a few hundred words, and a model trained on them alone cannot copy a word of real text. Here words are built from English function
words, stems and affixes. They share tokens with real text but are new each time. So a model can only learn to copy, and to transfer letter case, length and
punctuation from one text to another. The texts have no meaning.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from traffic.world import Exchange

#: The domains of LaMP-5 and LaMP-4, as `traffic.datasets` names them.
DOMAINS = ("scholarly_title", "news_headline")
#: The generic title of a passage: this many of its first words, unchanged.
LEAD_WORDS = 9

_FUNCTION_LIST = """
the of and a to in is that for it on with as are by at from this be or an we which can have not has was but they their its his her our your more one
all new two when how what who why after over into about than up out no first may also between under using based through such some many will would
could been were while these those there here other only time people year day way man woman world life state work
"""
_FUNCTION = _FUNCTION_LIST.split()
_STEMS_LIST = """
act age air art band bank base bat bear bell bill bind black board bond book brain branch bread break bridge bright broad build burn call camp care
cast cause cell chain change charge chart check claim class clear climb close cloud code cold color common compute connect contain control cook cord
cost count court cover craft cross crown curve dance dark data deal deep define detect develop differ direct discover distribute divide doctor double
draw dream drive drop earth economic edge effect elect energy engine equal estimate event evolve exact except expect experience express face fact fail
fall family farm fast field figure film filter final find fire fish flow fold follow food force form found frame free friend front function future
game gather gene general give glass global gold graph great green ground group grow guard guess guide hand hard head health hear heart heat help high
history hold home hope horse hour house human image improve include increase inform inter involve island join judge jump just keep key kind king know
land language large last law lead learn leave letter level light limit line link list live local logic long lose love low machine magnet main major
make map mark market master match matter measure medic member memory mental metal method middle mind minor model modern money month moon morning
mother motion mountain move music name nation nature near need network night noise normal north note number object offer office open optim order organ
origin paint paper parent park part pass path pattern pay perform person phase physic picture place plan plant play point policy port position power
present president press price prime print problem process produce program project protect prove public quality question quick race radio rain random
range rate reach read real reason record red region relate report represent require research result return rich right ring rise river road rock role
room round rule safe sample scale school science score sea search season second section secure select send sense sentence series serve set shape share
sharp shift ship short show side sign signal simple simulate single size skill sleep slow small smooth social soft soil solve song sound source south
space spark speak special speech speed spirit spread spring square stage stand star start station steel step stone stop store storm story strategy
stream street strong structure student study style subject success sugar summer support surface survey system table talk target task teach team tech
temper term test text theory thing think thread time tone top touch tour track trade train transfer travel treat tree trend trial tribe truth turn
type unit univers value vary vector view village visual voice wait walk wall war warm watch water wave weak weather week weight west wheel white wide
wild wind window winter wise wonder wood word write young zone
"""
_STEMS = _STEMS_LIST.split()
_PREFIXES = ("re", "un", "in", "con", "pro", "trans", "over", "sub", "multi", "non", "pre", "de")
_SUFFIXES = ("s", "ed", "ing", "er", "ers", "ion", "al", "ly", "ment", "ity", "ive", "ness", "able", "ation", "ist", "ic", "y", "ful", "ize", "'s")
_ODD = "0123456789$%&*+-/<=>@^_{}\\\"'()[];:#~|éüαβ–—’“”"
_OPENERS = ("", "", "", "why", "how", "on", "the", "watch", "inside")
_CLOSERS = ("", "", "", "?", "!", "...")


@dataclass(frozen=True)
class TitleStyle:
    """How one user writes titles."""

    case: str  # "title", "lower" or "sentence"
    words: int
    opener: str
    closer: str
    colon: bool

    @classmethod
    def draw(cls, rng: random.Random) -> Self:
        case = rng.choice(("title", "title", "lower", "sentence"))
        return cls(case, rng.choice((5, 7, 9, 11)), rng.choice(_OPENERS), rng.choice(_CLOSERS), colon=rng.random() < 0.1)

    def title_of(self, passage: str) -> str:
        words = [self.opener] * bool(self.opener) + _lead(passage, self.words).split()
        if self.colon and len(words) > 4:
            words[2] += ":"
        words = [self._cased(word, index) for index, word in enumerate(words)]
        return " ".join(words) + self.closer

    def _cased(self, word: str, index: int) -> str:
        if self.case == "lower":
            return word.lower()
        return word[0].upper() + word[1:] if self.case == "title" or index == 0 else word


def draw_exchange(rng: random.Random, style: TitleStyle, domain: str) -> Exchange:
    """A passage, its generic title, and its title in this style."""
    text = passage(rng)
    title = style.title_of(text)
    return Exchange(domain, text, _lead(text, LEAD_WORDS), title, title)


def words(rng: random.Random, count: int) -> str:
    """Random words without punctuation."""
    return " ".join(_word(rng) for _ in range(count))


def passage(rng: random.Random) -> str:
    """One to three sentences, each of five to sixteen words."""
    return " ".join(_sentence(rng) for _ in range(rng.choice((1, 1, 2, 3))))


def _lead(text: str, count: int) -> str:
    return " ".join(text.split()[:count]).rstrip(".,")


def _sentence(rng: random.Random) -> str:
    words = [_word(rng) for _ in range(rng.randint(5, 16))]
    words[0] = words[0][0].upper() + words[0][1:]
    for index in range(2, len(words) - 2):
        if rng.random() < 0.06:
            words[index] += ","
    return " ".join(words) + "."


def _word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.42:
        return rng.choice(_FUNCTION)
    if kind < 0.45:
        return "".join(rng.choices(_ODD, k=rng.randint(1, 4)))
    word = _compound(rng, _STEMS)
    if kind < 0.53:
        return word[0].upper() + word[1:]
    return word.upper()[:4] if kind < 0.55 else word


def _compound(rng: random.Random, stems: Sequence[str]) -> str:
    """A stem, often with an affix, sometimes with a second stem or a hyphen."""
    word = rng.choice(stems)
    if rng.random() < 0.15:
        word = rng.choice(_PREFIXES) + word
    if rng.random() < 0.12:
        word += rng.choice(("", "-")) + rng.choice(stems)
    return word + rng.choice(_SUFFIXES) if rng.random() < 0.45 else word
