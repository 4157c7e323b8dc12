"""ROUGE-1 and sentence-level ROUGE-L, F-measure, without stemming: the numbers of rouge_score 0.1.2, to the last digit.

The library's own table for ROUGE-L takes a minute and 2 GB for the longest texts of a message; the one here takes under a second.
rouge_score is imported at the first use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple


class RougeScores(NamedTuple):
    """F-measures of one text."""

    unigrams: float
    longest: float  # longest common subsequence of the whole texts, not rougeLsum


def rouge_scores(answer: str, truth: str) -> RougeScores:
    """Counts lower-cased words of the letters a to z and digits. Texts without such a word score 0, as in the library."""
    tokenize = _tokenizer()
    predicted, gold = tokenize(answer), tokenize(truth)
    if not predicted or not gold:
        return RougeScores(0.0, 0.0)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return RougeScores(_f_measure(shared, predicted, gold), _f_measure(common_subsequence(predicted, gold), predicted, gold))


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence. Each row of the table is the bits of one integer.

    Hyyrö (2004), "Bit-parallel LCS-length computation revisited": two texts of 32,768 tokens, the most a message holds, take under a second.
    """
    positions: dict[str, int] = {}
    for position, token in enumerate(left):
        positions[token] = positions.get(token, 0) | 1 << position
    row = all_ones = (1 << len(left)) - 1
    for token in right:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & all_ones
    return len(left) - row.bit_count()


def _f_measure(shared: int, predicted: Sequence[str], gold: Sequence[str]) -> float:
    """In rouge_score's order of operations, which decides the last digit."""
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall) if shared else 0.0


@cache
def _tokenizer() -> Callable[[str], list[str]]:
    from rouge_score.tokenize import tokenize  # not `rouge_score.tokenizers`, which imports nltk for seconds

    return lambda text: list(tokenize(text, stemmer=None))
