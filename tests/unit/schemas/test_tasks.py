"""Which option an answer names."""

from __future__ import annotations

import pytest

from schemas.tasks import choose_option, is_same_label, read_answer


@pytest.mark.parametrize(
    ("answer", "options", "chosen"),
    [
        ("comedy", ("comedy", "action"), "comedy"),
        ("COMEDY", ("Comedy", "action"), "Comedy"),
        ("polish", ("Polish", "polish"), "polish"),
        ("Polish", ("Polish", "polish"), "Polish"),
        ("POLISH", ("Polish", "polish"), None),
        ("COMEDY", ("comedy", "comedy"), "comedy"),
        ("drama", ("comedy", "action"), None),
        ("a comedy", ("comedy",), None),
        ("3", ("1", "2"), None),
        ("Any words.", (), "Any words."),
        ("cafe\u0301", ("café", "action"), "café"),
        ("café", ("cafe\u0301", "action"), "cafe\u0301"),
        ('"comedy"', ("comedy", "action"), "comedy"),
        ("com\u200bedy\ufeff", ("comedy", "action"), "comedy"),
        ("ＣＯＭＥＤＹ", ("comedy", "action"), "comedy"),
        ("ΟΔΟΣ", ("οδος", "action"), "οδος"),
        ("❤", ("❤\ufe0f", "👎"), "❤\ufe0f"),
        ("５", ("4", "5"), "5"),
        ("\u200b", ("comedy",), None),
        ("\u200b", ("''", "a"), None),
        ("''", ("''", "a"), "''"),
        ("'a'", ("a", "'a'", '"a"'), "'a'"),
        ("a", ("a", "'a'", '"a"'), "a"),
        ("“a”", ("a", "'a'", '"a"'), None),
        ("a", ("'a'", "b"), "'a'"),
        ("“A”", ("a", "b"), "a"),
        ("25", ("2⁵", "25"), "25"),
        ("2⁵", ("2⁵", "25"), "2⁵"),
        ("25", ("2⁵", "32"), None),
        ("½", ("1/2", "½"), "½"),
        ("①", ("1", "①"), "①"),
    ],
)
def test_an_answer_names_an_option_exactly_or_unambiguously(answer: str, options: tuple[str, ...], chosen: str | None) -> None:
    assert choose_option(answer, options) == chosen


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [(" COMEDY\n", ("comedy",), "comedy"), (" Any words.\n", (), "Any words."), ("drama", ("comedy",), None), ("", (), None), (" \u200b\n", (), None)],
)
def test_an_answer_is_read_from_a_stripped_text_and_is_never_blank(text: str, options: tuple[str, ...], answer: str | None) -> None:
    assert read_answer(text, options) == answer


def test_quotes_make_another_label_only_between_options_that_differ_by_them() -> None:
    assert is_same_label("'a'", "a", ("a", "b")) and is_same_label('"A"', "A", ())
    assert not is_same_label("'a'", "a", ("a", "'a'"))
    assert not is_same_label("A", "a", ("a", "b"))
