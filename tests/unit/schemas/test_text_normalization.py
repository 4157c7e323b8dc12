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
def test_texts_are_brought_into_one_form(text: str, expected: str) -> None:
    assert normalized(text) == expected


def test_folding_leaves_out_letter_case() -> None:
    assert folded(' "STRASSE" ') == folded("straße")
