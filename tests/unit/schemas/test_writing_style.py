from __future__ import annotations

import pytest

from schemas.writing_style import form, is_supported, letter_case

ABSTRACT = "We study the convergence of sparse estimators when data are scarce and noisy, and prove a bound that holds for all of them."
DRAFT = "We study the convergence of sparse estimators when data are"
OTHER = "A new protocol shares keys among many parties over a public channel without any trusted party at all."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HELP ME", "upper"),
        ("the bus :)", "lower"),
        ("Sharing Keys among Many Parties", "title"),
        ("“Sharing Keys”: What the Parties Say", "title"),
        ("Sharing keys among many parties", "sentence"),
        ("Keys", "sentence"),
        ("eBay Sells", "mixed"),
        ("42", "mixed"),
        ("", "mixed"),
    ],
)
def test_letter_case(text: str, expected: str) -> None:
    assert letter_case(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why Keys Fail: A Short Study", {"case": "title", "opening": "why", "closing": "", "colon": "True", "question": "True", "length": "short"}),
        ("keys are shared ?!", {"case": "lower", "opening": "keys", "closing": "?!", "colon": "False", "question": "True", "length": "short"}),
        ("फ़िल्म अच्छी है !!", {"case": "mixed", "opening": "फ़िल्म", "closing": "!!", "colon": "False", "question": "False", "length": "short"}),
        ("मुझे पसंद है", {"case": "mixed", "opening": "मुझे", "closing": "", "colon": "False", "question": "False", "length": "short"}),
        ("at 10:30 " + "on " * 11, {"case": "lower", "opening": "at", "closing": "", "colon": "False", "question": "False", "length": "long"}),
        ("", {"case": "mixed", "opening": "", "closing": "", "colon": "False", "question": "False", "length": "short"}),
    ],
)
def test_the_form_of_a_text_does_not_depend_on_its_topic(text: str, expected: dict[str, str]) -> None:
    assert dict(form(text)) == expected


@pytest.mark.parametrize(
    ("shown", "truth", "supported"),
    [
        ("Sharing Keys Among Many Parties", "Bounds For Scarce And Noisy Data", True),  # title case
        ("Sharing keys: a protocol for the many of us in this big and wide world", "Scarce data: all of the sparse bounds", True),  # a colon
        ("How to share keys among a great many people", "How sparse we are in the face of so little data", True),  # an opening
        ("Who holds the key?", "What do sparse estimators with few data and much noise ever know?", True),  # a question
        ("Keys for all", "Sparse bounds", True),  # brevity
        ("Sharing keys among a great many people", "Sparse Bounds For The Scarce And Noisy Data Of Today", False),
        ("SHARING KEYS!", "The sparse are few, and they prove what holds for them", False),
    ],
)
def test_a_new_text_is_supported_by_a_form_that_the_draft_lacks(shown: str, truth: str, supported: bool) -> None:
    assert is_supported(ABSTRACT, DRAFT, truth, OTHER, shown) is supported


@pytest.mark.parametrize(("shown", "supported"), [("We share the keys among nobody but us", True), ("we share", False)])
def test_an_unchanged_form_is_supported_by_an_example_of_that_form(shown: str, supported: bool) -> None:
    assert is_supported(ABSTRACT, DRAFT, "We bound what anybody may hope to infer", OTHER, shown) is supported


def test_a_rewording_is_judged_by_its_words_and_not_by_its_form() -> None:
    assert not is_supported("the bus is slow", "The bus is very slow", "ugh the bus is slow", "my dog is new", "My dog is very new")
    assert is_supported("the bus is slow", "The bus is very slow", "ugh the bus is slow", "my dog is new", "ugh my dog is so new")


def test_a_rewording_into_title_case_is_supported_by_an_example_in_title_case() -> None:
    changed = ("the bus was late", "The bus was really late", "The Bus Was Really Late")
    assert is_supported(*changed, "my dog grew bigger", "My Dog Grew Bigger")
    assert not is_supported(*changed, "my dog grew bigger", "My dog grew bigger")
