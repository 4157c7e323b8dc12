"""How an arm answers, beside how well, so that a model which games the reward shows.

The reward never sees `reasoning_chars`, `consistent_share`, `distinct_share` and ROUGE. `copied_share` and `length_ratio` see finer than its guards:
near copies, and length within the limit. `draft_share` and `flattery_share` count what the guards act on, and fall-backs. All are plain means
over an arm's answers, for reading next to `schemas.scoring.metrics` (which has ROUGE for texts); none decides a promotion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from schemas.rewriting import Rewrite, parse
from schemas.sameness import folded, normalized
from schemas.scoring import style_f1
from schemas.tasks import Task, choose_option
from trainer.data.query_cases import QueryCase
from trainer.learn.rewards import flatters

#: `style_f1` from which a text counts as a copy of an item, changed marks or letter case included. The reward's guard wants it verbatim.
COPY = 0.9


class Row(NamedTuple):
    """One case with what an arm wrote (None: it was not asked) and the answer that went out, perhaps the base answer."""

    case: QueryCase
    text: str | None
    answer: str


def behaviour(rows: Sequence[Row]) -> dict[str, float]:
    """Figures by name. One that no row speaks of is left out: no texts, no options, or no reasoning.

    - `draft_share`: answers that are the draft, whether kept, repeated or fallen back to;
    - of free texts `copied_share` (nearly an item's response, where the item is about something else and the truth is no such copy),
      `flattery_share`, `distinct_share` (different answers over all answers), `length_ratio` (characters of all answers over those of all truths);
    - of completions that parse `reasoning_chars`, and of those that choose an option `consistent_share`: the reasoning names the option chosen.
    """
    texts = [row for row in rows if row.case.task is Task.TEXT]
    read = [(row, rewrite) for row in rows if (rewrite := parse(row.text or "")) is not None]
    chosen = [(row, rewrite, choice) for row, rewrite in read if row.case.query.options and (choice := _choice(row, rewrite)) is not None]
    found: dict[str, list[float]] = {
        "draft_share": [normalized(row.answer) == normalized(row.case.base_answer) for row in rows],
        "copied_share": [_is_copied(row) for row in texts],
        "flattery_share": [flatters(row.answer, row.case) for row in texts],
        "reasoning_chars": [len(rewrite.reasoning) for _, rewrite in read],
        "consistent_share": [choice.casefold() in _named(rewrite.reasoning, row.case.query.options) for row, rewrite, choice in chosen],
    }
    figures = {name: fmean(values) for name, values in found.items() if values}
    if texts:
        figures["distinct_share"] = len({folded(row.answer) for row in texts}) / len(texts)
        figures["length_ratio"] = sum(len(row.answer) for row in texts) / sum(len(row.case.truth) for row in texts)
    return figures


def _is_copied(row: Row) -> bool:
    """Whether an item about another text was handed out again."""
    asked, answer, truth = folded(row.case.query.text), folded(row.answer), folded(row.case.truth)
    others = (folded(item.response) for item in row.case.items if folded(item.content) != asked)
    return any(style_f1(answer, other) >= COPY > style_f1(truth, other) for other in others)


def _choice(row: Row, rewrite: Rewrite) -> str | None:
    return choose_option(rewrite.answer, row.case.query.options)


def _named(reasoning: str, options: Sequence[str]) -> set[str]:
    """The options, folded, that stand in a reasoning as words of their own; within `dark comedy`, `comedy` does not."""
    names = "|".join(re.escape(name) for name in sorted(map(str.casefold, options), key=len, reverse=True))
    return set(re.findall(rf"(?<!\w)(?:{names})(?!\w)", reasoning.casefold()))
