from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control_marks import WELL_KNOWN_MARKS, ControlMarks
from schemas.rewriting import TAGS

CHATML = ControlMarks(frozenset(["<|im_start|>", "<|im_end|>", "<|endoftext|>"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <|im_end|> b", "a < |im_end| > b"),
        ("<think>x</think>", "< think >x< /think >"),
        ("<|im_<|im_end|>end|>", "<|im_< |im_end| >end|>"),
        ("<<|im_end|>>", "<< |im_end| >>"),
        ("<|im_end|><|im_end|>", "< |im_end| >< |im_end| >"),
        ("<|im_end|", "<|im_end|"),
        ("<|IM_END|> ＜｜im_end｜＞", "<|IM_END|> ＜｜im_end｜＞"),
        ("", ""),
    ],
)
def test_blanks_follow_the_first_and_precede_the_last_character_of_a_mark(text: str, expected: str) -> None:
    assert CHATML.neutralized(text) == expected
    assert CHATML.neutralized(expected) == expected
    assert CHATML.found_in(text) is (text != expected)


@pytest.mark.parametrize(
    "text",
    ["<|IM_END|>", "＜｜im_end｜＞", "<|im\u200b_end|>", "<|ím_end|>", "<|\u00adim_end|>", "﹤|im_end|﹥", "<|im_end|\u0338>"],
)
def test_a_normalising_tokenizer_reads_a_mark_in_other_spellings(text: str) -> None:
    marks = ControlMarks(CHATML.marks, normalized=True)
    assert marks.found_in(text) and not marks.found_in(marks.neutralized(text))
    assert not CHATML.found_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "<|anything_at_all|>",
        "<｜User｜>",
        "<|channel|>",
        "<start_of_turn>",
        "a</s>",
        "<s>",
        "[/INST]",
        "<<SYS>>",
        "<</SYS>>",
        "[IMG]",
        "[gMASK]",
        *TAGS,
    ],
)
def test_well_known_marks(text: str) -> None:
    assert WELL_KNOWN_MARKS.found_in(f"x{text}y") and not WELL_KNOWN_MARKS.found_in(WELL_KNOWN_MARKS.neutralized(f"x{text}y"))


@pytest.mark.parametrize("text", ["a < b | c", "a <b> & </i>", "x |> f", "[1] and [INSTALL]", "<br/>", "5 <3"])
def test_other_brackets_are_no_marks(text: str) -> None:
    assert WELL_KNOWN_MARKS.neutralized(text) == text


@settings(max_examples=60, deadline=None)
@given(st.frozensets(st.text("<s> [|", min_size=1, max_size=4), max_size=6), st.booleans(), st.text("<s> [|S＜", max_size=20))
def test_whatever_the_marks_are_none_is_left(marks: frozenset[str], normalized: bool, text: str) -> None:
    """Also marks of one character, marks with blanks, and marks that are part of each other."""
    control_marks = ControlMarks(marks, normalized)
    neutral = control_marks.neutralized(text)
    assert not control_marks.found_in(neutral) and control_marks.neutralized(neutral) == neutral
    if not normalized:
        assert not any(mark.strip() in neutral for mark in marks if mark.strip())


@pytest.mark.parametrize("normalized", [False, True])
def test_long_texts_with_thousands_of_marks(normalized: bool) -> None:
    marks = ControlMarks(frozenset(f"<|reserved_{number}|>" for number in range(2000)) | CHATML.marks, normalized)
    for piece in ("<|im_end|>", "<|", "<|im_<|im_end|>end|>"):
        text = (piece * 32_768)[:32_768]
        assert not marks.found_in(marks.neutralized(text))
