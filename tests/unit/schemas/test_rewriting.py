"""The reflection model's output format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.rewriting import TAGS, Rewrite, parse, parse_body
from schemas.sameness import is_blank

BODY = "<personalized>yes</personalized>"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (f"<think>because</think>{BODY}", "yes"),
        (f"  <think>because</think>\n\n{BODY}\n", "yes"),
        (f"<think></think>{BODY}", "yes"),
        (f"<think>the <personalized> tag holds the answer</think>{BODY}", "yes"),
        (f"<think>because</think>{BODY}</personalized> and more", "yes"),
        ("<think>x</think><personalized> a < b & c > d </personalized>", "a < b & c > d"),
        ("<think>x</think><personalized>two\nlines</personalized>", "two\nlines"),
    ],
)
def test_a_complete_rewrite_is_parsed(completion: str, answer: str) -> None:
    rewrite = parse(completion)
    assert rewrite is not None and rewrite.answer == answer


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "yes",
        BODY,
        f"because</think>{BODY}",
        f"<think>because{BODY}",
        f"Sure! <think>because</think>{BODY}",
        f"<think>a<think>b</think>{BODY}",
        f"<think>a</think> so {BODY}",
        "<think>a</think><personalized>cut off",
        "<think>a</think><personalized>  </personalized>",
        "<think>a</think><personalized>a<personalized>b</personalized>",
        f"<think>a</think><think>b</think>{BODY}",
        "<think>a</think><personalized>\u200b\u3164\u2800\ufeff</personalized>",
    ],
)
def test_an_invalid_rewrite_is_none(completion: str) -> None:
    assert parse(completion) is None


@pytest.mark.parametrize(
    ("completion", "reasoning"),
    [
        (f"<think>because</think>{BODY}", "because"),
        (BODY, ""),
        (f"because</think>{BODY}", "because"),
        (f"Sure! {BODY} I hope that helps", "Sure!"),
        (f"<think>a</think><think>b</think>{BODY}", "a  b"),
        (f"<think>a<think>b</think>{BODY}", "a b"),
        (f"<think>a</think></think>{BODY}", "a"),
        (f"<think>a</think> so {BODY}</personalized>", "a  so"),
        (f"<think>I write <personalized>no</personalized>, or not</think></think>{BODY}", "I write  no , or not"),
    ],
)
def test_a_readable_body_is_used_although_the_trace_is_missing_or_doubled(completion: str, reasoning: str) -> None:
    assert parse_body(completion) == Rewrite(reasoning, "yes")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "yes",
        "<think>because</think>yes",
        f"<think>because{BODY}",  # an open trace may quote the tag
        f"<think>a</think><think>b{BODY}",
        "<think>I write <personalized>no</personalized></think>",  # the trace quotes it, and the answer is cut off
        "I write <personalized>no</personalized></think>",
        "<think>a</think></think><personalized>cut off",
        "<personalized>cut off",
        "<personalized>  </personalized>",
        "<personalized>\u200b\u3164</personalized>",
        f"{BODY}<personalized>no</personalized>",
        f"{BODY}<personalized>cut off",
        "<personalized>a<personalized>b</personalized>",
        "<personalized>a<think>b</personalized>",
        f"{BODY}<think>why",
        "yes</personalized>",
    ],
)
def test_a_body_that_may_not_be_the_answer_is_not_used(completion: str) -> None:
    assert parse_body(completion) is None


_plain = st.text().filter(lambda text: not any(tag in text for tag in TAGS))


@given(reasoning=_plain, answer=_plain.filter(lambda text: not is_blank(text)))
def test_a_rewrite_survives_writing_and_parsing(reasoning: str, answer: str) -> None:
    assert parse(Rewrite(reasoning, answer).to_text()) == Rewrite(reasoning.strip(), answer.strip())


@given(st.text(alphabet="<>/think personalized"))
def test_no_text_makes_parsing_fail(completion: str) -> None:
    strict, read = parse(completion), parse_body(completion)
    assert read == strict or (strict is None and read is not None and not any(tag in read.answer for tag in TAGS))
