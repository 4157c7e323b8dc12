from __future__ import annotations

import pytest

from schemas.text_normalization import folded, normalized


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two\n words ", "two words"),
        ('"quoted"', "quoted"),
        ("“ ‘twice’ ”", "twice"),
        ('"one" and "two', '"one" and "two'),
        ("ﬁne Ａ", "fine A"),
        ("it's", "it's"),
        ('"', '"'),
        ('""', ""),
        ("Case, and marks!", "Case, and marks!"),
    ],
)
def test_normalized_texts_have_one_form(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_folded_texts_have_no_letter_case() -> None:
    assert folded(' "STRASSE" ') == folded("straße")
