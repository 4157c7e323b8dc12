"""The reflection model's output format: `<think>...</think><personalized>...</personalized>` (RPO, appendix C).

Two readers. `parse` accepts the format alone: training rewards it. `parse_body` also accepts an answer whose body is readable although the trace is missing or
doubled: serving uses it, because a personal answer is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.sameness import is_blank

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<personalized>", "</personalized>"
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


@dataclass(frozen=True)
class Rewrite:
    """A parsed completion: the trace and the final answer, both stripped."""

    reasoning: str
    answer: str

    def to_text(self) -> str:
        """The completion a model is trained to write, without the end token."""
        return f"{THINK_OPEN}{self.reasoning}{THINK_CLOSE}{ANSWER_OPEN}{self.answer}{ANSWER_CLOSE}"


def parse(completion: str) -> Rewrite | None:
    """Parse a completion; None if it is not one closed trace followed by one closed body with visible text.

    The body is searched after the trace, so that a tag quoted in the trace does not count. Text after the body is ignored (the paper's
    LaMP-7 sample ends with a stray tag). Plain string search, because bodies contain `<` and `&` and are not XML.
    """
    opening, separator, rest = completion.partition(THINK_CLOSE)
    if not separator or opening.count(THINK_OPEN) != 1 or not is_blank(opening.split(THINK_OPEN)[0]):
        return None
    before, separator, rest = rest.partition(ANSWER_OPEN)
    if not separator or not is_blank(before):
        return None
    body, separator, _ = rest.partition(ANSWER_CLOSE)
    if not separator or ANSWER_OPEN in body or is_blank(body):
        return None
    return Rewrite(opening.split(THINK_OPEN)[1].strip(), body.strip())


def parse_body(completion: str) -> Rewrite | None:
    """`parse`, or else the one body of a completion whose trace is missing or doubled. None if it is not clear which text the answer is.

    The body counts if it comes after the last `</think>`, or if there is no such tag; if it is closed, has visible text and holds no tag of ours; and if no
    `<think>` and no second `<personalized>` is between that place and the completion's end. So a body that an open trace quotes does not count, nor one of
    two bodies. The reasoning is the text before the body without its tags.
    """
    if (rewrite := parse(completion)) is not None:
        return rewrite
    trace, separator, rest = completion.rpartition(THINK_CLOSE)
    before, opened, after = rest.partition(ANSWER_OPEN)
    body, closed, _ = after.partition(ANSWER_CLOSE)
    if not (opened and closed) or THINK_OPEN in rest or ANSWER_OPEN in after or is_blank(body):
        return None
    reasoning = f"{trace}{separator}{before}"
    for tag in TAGS:
        reasoning = reasoning.replace(tag, " ")
    return Rewrite(reasoning.strip(), body.strip())
