"""The format of an answer with a chain of thought: reasoning, then the answer after a marker (Kojima et al. 2022, in our words).

The papers do not print their instruction. The answer is the text after the marker of the last line that has one: earlier lines are reasoning, which may
quote the marker. A marker at the start of that line counts before others in it, because an answer such as a title may also hold the marker's words.
RPM's aligned generation (`schemas.rpm_prompts`) has the same format, with headings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from schemas.sameness import is_blank

MARKER = "Answer:"
#: Added to the task in the paper's style, and in few tokens.
INSTRUCTION = f"First think step by step and write down your reasoning. Then write the answer alone, without further explanation, on a last line after {MARKER}"
COMPACT_INSTRUCTION = f"think step by step , then write {MARKER}"
#: As models write it: in any letter case, in bold or italics, as the final answer. Emphasis may end before or after the colon, or after the answer.
_MARKER = re.compile(r"(?<!\w)(?P<emphasis>[*_]{0,3})(?:the )?(?:final )?answer(?P<end>[*_]{0,3} ?[:：][*_]{0,3})", re.IGNORECASE)
#: What may precede a marker at the start of a line: the signs of headings, quotations and lists.
_LINE_SIGNS = " \t#>-"


@dataclass(frozen=True)
class ReasonedAnswer:
    """Both stripped. `answer` has visible text."""

    reasoning: str
    answer: str


def parse(text: str) -> ReasonedAnswer | None:
    """None if there is no marker, or no visible text after it."""
    marker = _last_marker(text)
    if marker is None:
        return None
    answer = text[marker.end() :].strip()
    if not set("*_") & set(marker["end"]):
        answer = answer.removesuffix(marker["emphasis"]).strip()
    return None if is_blank(answer) else ReasonedAnswer(text[: marker.start()].rstrip(f"{_LINE_SIGNS}\n").strip(), answer)


def until_next_part(text: str, part: re.Pattern[str]) -> str:
    """The text before the first `part` after an answer, or after a line that only has the marker: models that do not stop go on with the next example.

    A marker within a line without text after it announces the format (`Here is the answer:`), so the text goes on.
    """
    for marker in _MARKER.finditer(text):
        end = part.search(text, marker.end())
        if end is None:
            break
        if _starts_its_line(marker, text) or not is_blank(text[marker.end() : end.start()]):
            return text[: end.start()]
    return text


def _last_marker(text: str) -> re.Match[str] | None:
    markers = list(_MARKER.finditer(text))
    if not markers:
        return None
    line_start = text.rfind("\n", 0, markers[-1].start()) + 1
    first = next(marker for marker in markers if marker.start() >= line_start)
    return first if _starts_its_line(first, text) else markers[-1]


def _starts_its_line(marker: re.Match[str], text: str) -> bool:
    return not text[text.rfind("\n", 0, marker.start()) + 1 : marker.start()].strip(_LINE_SIGNS)
