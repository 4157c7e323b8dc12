"""The format of an answer with a chain of thought: reasoning, then the answer behind a marker (Kojima et al. 2022, in our words).

Our own words, because the papers print none. The answer is the text behind the last marker: reasoning may quote the marker, and an answer follows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from schemas.sameness import is_blank

MARKER = "Answer:"
#: Added to the task in the paper's style, and in few tokens.
INSTRUCTION = f"First think step by step and write down your reasoning. Then write the answer alone, without further explanation, on a last line after {MARKER}"
COMPACT_INSTRUCTION = f"think step by step , then write {MARKER}"
#: Also in bold, and in any letter case, as models write it.
_MARKER = re.compile(r"[*_]{0,2}\banswer[*_]{0,2}:[*_]{0,2}", re.IGNORECASE)


@dataclass(frozen=True)
class ReasonedAnswer:
    """Both stripped. `answer` has visible text."""

    reasoning: str
    answer: str


def parse(text: str) -> ReasonedAnswer | None:
    """None if there is no marker, or no visible text behind the last one."""
    markers = list(_MARKER.finditer(text))
    if not markers or is_blank(text[markers[-1].end() :]):
        return None
    last = markers[-1]
    return ReasonedAnswer(text[: last.start()].strip(), text[last.end() :].strip())
