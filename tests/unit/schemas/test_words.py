"""The units of texts in any script."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given

from schemas import words
from schemas.sameness import visible
from schemas.words import tokens_of, whole, words_of
from tests.support.latin_texts import BEFORE, latin_texts


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("我今天去了，对吧？！", ["我", "今", "天", "去", "了", "，", "对", "吧", "？！"]),
        ("コーヒー ﾊﾟﾝ", ["コ", "ー", "ヒ", "ー", "ﾊﾟ", "ﾝ"]),
        ("が食べたい", ["が", "食", "べ", "た", "い"]),
        ("iPhone手机2024年", ["iPhone", "手", "机", "2024", "年"]),
        ("मुझे हिन्दी पसंद है।", ["मुझे", "हिन्दी", "पसंद", "है", "।"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("שָׁלוֹם צה״ל", ["שָׁלוֹם", "צה״ל"]),
        ("كِتَابٌ، نعم", ["كِتَابٌ", "،", "نعم"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("สวัสดี น้ำ", ["ส", "วั", "ส", "ดี", "น้ำ"]),
        ("ភាសា", ["ភា", "សា"]),
        ("မြန်မာ", ["မြ", "န်", "မ", "ာ"]),
        ("བོད་སྐད།", ["བོད", "སྐད", "།"]),
        ("ሰላም፡ለዓለም።", ["ሰላም", "ለዓለም", "።"]),
        ("ինչո՞ւ", ["ինչո՞ւ"]),
        ("한국어 좋아요", ["한국어", "좋아요"]),
        ("cafe\u0301 за\u0301мок ẹ́kọ́", ["café", "за\u0301мок", "ẹ́kọ́"]),
        ("zero\u200bwidth so\u00adft", ["zerowidth", "soft"]),
        ("a\u2800b\u3164c", ["a", "b", "c"]),
        ("1\ufe0f\u20e3 #fun ❤\ufe0f it's e-mail :-)", ["1", "\ufe0f\u20e3", "#fun", "❤\ufe0f", "it's", "e-mail", ":-)"]),
        ("", []),
    ],
)
def test_a_unit_is_a_word_a_character_of_a_script_without_blanks_or_a_run_of_signs(text: str, tokens: list[str]) -> None:
    for form in ("NFC", "NFD"):
        assert tokens_of(unicodedata.normalize(form, text)) == [unicodedata.normalize("NFC", token) for token in tokens]


def test_words_are_the_units_without_the_signs() -> None:
    assert words_of("iPhone手机！ it's #fun 🎉 हिन्दी। za\u200bro") == ["iPhone", "手", "机", "it's", "#fun", "हिन्दी", "zaro"]


@given(latin_texts)
def test_texts_in_latin_greek_and_cyrillic_letters_are_split_as_before(text: str) -> None:
    assert tokens_of(text) == BEFORE.findall(text)
    assert words_of(text) == re.findall(r"[\w#'-]+", text)


def test_the_fast_rule_only_takes_texts_that_the_general_rule_splits_alike() -> None:
    plain = [character for character in map(chr, range(sys.maxunicode + 1)) if not words._NOT_PLAIN.search(character)]
    assert len(plain) > 4_000
    text = " ".join(f"a{character}b {character}" for character in plain)
    assert visible(text) == text
    assert words._TOKENS.findall(text) == words._PLAIN_TOKENS.findall(text)
    assert words._WORDS.findall(text) == words._PLAIN_WORDS.findall(text)


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("comedy", "a dark comedy!", True),
        ("comedy", "comedyclub", False),
        ("comedy", "dark-comedy", True),
        ("हिन", "हिन्दी", False),  # a part of a word up to a mark
        ("喜剧", "我喜欢喜剧片", True),
        ("ภาพยน", "ภาพยนตร์", True),
        ("ภาพย", "ภาพย์", False),
        ("cafe", visible("cafe\u0301"), False),
        ("c++", "in c++ now", True),
    ],
)
def test_phrases_are_found_as_whole_words(phrase: str, text: str, found: bool) -> None:
    assert (whole([phrase]).search(text) is not None) is found
