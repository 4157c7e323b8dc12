"""Was an answer written by one model alone? Checked on the text itself, not on the stamp.

Rewrites are greedy, so each token of an answer must be the stamped version's first choice given the tokens before it. The prompt is
rebuilt from the response's own context, the answer is fed through the checkpoint once, and every token is compared with the best one.

- *same*: every token is the stamped version's choice, within `TIE` of the best logit (another order of float additions may flip a tie);
- *mixed*: it is not, but the other version's choices explain the whole answer, or its beginning or its end where the stamped one's explain the rest;
- *unexplained*: neither does.

What goes into the model again is the answer's text as it was stored, tokenized anew: an answer whose tokens the model chose differently
for the same text would come out as unexplained, never as same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from schemas.prompts import PromptStyle, reflection_prompt
from schemas.responses import Response
from schemas.rewriting import Rewrite

#: How far below the best logit a token may be and still count as the greedy choice: kernels add float32 numbers in different orders.
TIE = 0.02


class TraceResult(StrEnum):
    SAME = "same"
    MIXED = "mixed"
    UNEXPLAINED = "unexplained"


class PromptAndAnswer(NamedTuple):
    """What a version was asked and what was answered, as text."""

    prompt: str
    text: str


class Scorer(Protocol):
    """One checkpoint: for each token of a completion, how far its logit is below the best one."""

    def gaps(self, completion: PromptAndAnswer) -> Sequence[float]: ...


def trace_result(stamped: Sequence[float], other: Sequence[float] | None) -> TraceResult:
    """Who wrote an answer, by the gaps of its tokens under the stamped version and under the other one (None: there is none)."""
    own = [gap <= TIE for gap in stamped]
    if all(own):
        return TraceResult.SAME
    if other is None:
        return TraceResult.UNEXPLAINED
    foreign = [gap <= TIE for gap in other]
    for cut in range(len(own) + 1):
        if (all(own[:cut]) and all(foreign[cut:])) or (all(foreign[:cut]) and all(own[cut:])):
            return TraceResult.MIXED
    return TraceResult.UNEXPLAINED


def completion_of(response: Response, style: PromptStyle) -> PromptAndAnswer:
    """What the reflection model was asked for this answer, and what it wrote, from the record alone."""
    draft = response.context.draft
    shown = [item for item in response.context.items if item.interaction_id in response.provenance.history_ids]
    prompt = reflection_prompt(draft.query, draft.answer, shown, style)
    return PromptAndAnswer(prompt, Rewrite(response.reasoning, response.answer).to_text())


def check(answers: Iterable[tuple[str, PromptAndAnswer]], scorers: Mapping[str, Scorer]) -> Counter[TraceResult]:
    """Trace each answer, given with the version stamped on it. A version without a scorer leaves its answers unexplained."""
    found: Counter[TraceResult] = Counter()
    for version, completion in answers:
        stamped = scorers.get(version)
        if stamped is None:
            found[TraceResult.UNEXPLAINED] += 1
            continue
        result = trace_result(stamped.gaps(completion), None)
        for other in (scorer for name, scorer in scorers.items() if name != version):
            if result is TraceResult.UNEXPLAINED:
                result = trace_result(stamped.gaps(completion), other.gaps(completion))
        found[result] += 1
    return found
