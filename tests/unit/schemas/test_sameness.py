"""When two texts are the same, in any script, and when a text is blank."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from schemas import sameness
from schemas.sameness import folded, is_blank, normalized, visible

FAMILY, FLAG, SCOTLAND = "👨\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
#: Characters that interact: letters and marks of several scripts, emoji and their parts, invisible characters, blanks, quotes.
ODD = (
    "aéÅ\u0301\u0323कष\u094d\u093fمی中が한ᄀ\u11611️⃣❤👍🏽👩🏴\U000e0067\U000e007f"
    "\u200b\u200c\u200d\ufe0e\ufe0f\u034f\u00ad\u202e\u3164\uffa0\u2800\u0f73ﬁ\x07 \n\"'“”「」ℹ"
)
odd_texts = st.text(st.sampled_from(ODD), max_size=12)
any_texts = odd_texts | st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two\n words ", "two words"),
        ('"quoted"', "quoted"),
        ("“ ‘twice’ ”", "twice"),
        ("「引用」", "引用"),
        ('"one" and "two', '"one" and "two'),
        ("ﬁne Ａ５", "fine A5"),
        ("it's", "it's"),
        ('"', '"'),
        ('""', '""'),
        ("“''”", "''"),
        ("' '", "' '"),
        ("… ㎏ Ⅳ\u00a0ｶﾞ ﷼", "... kg IV ガ ریال"),
        ("2⁵ H₂O ½ ① ℝ 𝐱 ㎡", "2⁵ H₂O ½ ① ℝ 𝐱 m²"),
        ("Case, and marks!", "Case, and marks!"),
        ("cafe\u0301", "café"),
        ("co\u00adope\u200brate\ufeff", "cooperate"),
        ("\u202bשלום\u202c", "שלום"),
        ("\u2800dark\u3164comedy\u2800", "dark comedy"),
        (f"{FAMILY} {SCOTLAND}", f"{FAMILY} {SCOTLAND}"),
        ("❤\ufe0f 1\ufe0f\u20e3", "❤ 1\u20e3"),
    ],
)
def test_normalized_texts_have_one_form(text: str, expected: str) -> None:
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301 … ½ ™ “so”", "café … ½ ™ “so”"),
        (f"{FAMILY}{FLAG}{SCOTLAND} ❤\ufe0f 1\ufe0f\u20e3 👍🏽", f"{FAMILY}{FLAG}{SCOTLAND} ❤\ufe0f 1\ufe0f\u20e3 👍🏽"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: a letter in its final form inside a word
        ("क\u094d\u200dष", "क\u094d\u200dष"),  # Hindi: a half form
        ("র\u200d\u09cdয", "র\u200d\u09cdয"),  # Bengali: ya-phalaa
        ("na\u200dme\ufe0f \u200cand\u200d", "name and"),
        ("🏴\U000e0069\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065 this", "🏴 this"),  # tags that are no flag
        ("葛\U000e0100", "葛"),
        ("a\x00b\x7f\n", "ab\n"),
    ],
)
def test_visible_texts_keep_what_a_reader_sees(text: str, expected: str) -> None:
    assert visible(text) == expected


@pytest.mark.parametrize(
    "text", ["", " \n", "\u200b", "\u3164\u115f\u1160\uffa0", "\u2800", "\ufeff\u200e\u00ad\x07", "\ufe0f\u200d", "\U000e0041", "\u2066\u2069"]
)
def test_texts_that_show_nothing_are_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", ".", "\u0301", "❤", "\u0600", "\u200bא", "\ufffd", "𓂀", "🏴\U000e0069"])
def test_texts_that_show_something_are_not_blank(text: str) -> None:
    assert not is_blank(text)


def test_mappings_are_those_of_nfkc_except_for_those_that_change_the_meaning() -> None:
    kept = ("<super>", "<sub>", "<fraction>", "<circle>", "<font>")
    for character in map(chr, range(sys.maxunicode + 1)):
        decomposed = unicodedata.normalize("NFKD", character)
        if decomposed == character or any(unicodedata.decomposition(part).startswith(kept) for part in (character, *unicodedata.normalize("NFD", character))):
            continue
        text = sameness._mapped(character)
        if not any(unicodedata.decomposition(part).startswith(kept) for part in text):
            assert unicodedata.normalize("NFKD", text) == text == decomposed, character


def test_quotes_around_the_whole_can_be_kept() -> None:
    assert normalized(" “two  words” ", keep_quotes=True) == "“two words”"


def test_folded_texts_have_no_letter_case() -> None:
    assert folded(' "STRASSE" ') == folded("straße")
    assert folded("ΟΔΟΣ") == folded("οδος") and folded("CAFE\u0301") == folded("café")


@given(any_texts)
def test_canonically_equivalent_texts_are_the_same_and_each_form_is_final(text: str) -> None:
    for form in (visible, normalized, folded):
        assert form(form(text)) == form(text)
        assert {form(unicodedata.normalize(name, text)) for name in ("NFC", "NFD")} == {form(text)}
    assert normalized(visible(text)) == normalized(text)
    assert is_blank(text) is (visible(text).strip() == "")


@given(st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "S", "Zs"])))
def test_visible_latin_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_the_fast_search_finds_every_invisible_character() -> None:
    invisible, perhaps = regex.compile(sameness._INVISIBLE, regex.VERSION1), sameness._PERHAPS_INVISIBLE
    text = "".join(map(chr, range(sys.maxunicode + 1)))
    assert set(invisible.findall(text)) <= set(re.findall(perhaps, text))


def test_long_runs_of_marks_are_ordered_as_unicode_orders_them() -> None:
    for run in ("\u0301\u0323" * 40, "\u0f73\u0f75\u0f81" * 40, "\u0344\u05b0" * 40):
        assert visible("a" * 1_000 + run) == unicodedata.normalize("NFC", "a" * 1_000 + run)


@pytest.mark.timeout(30)  # minutes if a step were quadratic
def test_the_longest_texts_are_normalized_fast() -> None:
    for text in ("\u0301" * 16_384 + "\u0323" * 16_384, "\u0f73" * 32_768, "क\u200d" * 16_384, '"' * 32_768, "\uff9e\u0301" * 16_384, "½…" * 16_384):
        assert folded(text) == folded(visible(text))
