"""Scores answers against the user's truth: one score in [0, 1] per answer, metrics over many answers, and their confidence intervals.

The score is the RL reward and the figure of the evaluation, so that both have the same goal. As in RPO it is the task's metric as LaMP defines it:

- label: exact match, `accuracy`;
- rating: 1 - |error| / range of the options, `rating_score`, with LaMP-3's `mae` beside it. An answer that is not a number has the largest error;
- text: `style_f1`, with LaMP's `rouge_1` and `rouge_l` (rouge_score 0.1.2, no stemming) beside it.

ROUGE lower-cases and drops punctuation, so it ignores emoji, exclamation marks and capitals, which are much of a user's style.
`style_f1` is the mean of the same two F-measures (unigrams, longest common subsequence) over tokens that keep them.
Pure Python; rouge_score is imported at the first use.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from schemas.tasks import STARS, Task

T = TypeVar("T")

#: The name of `score` in reports, by task.
METRIC = {Task.LABEL: "accuracy", Task.RATING: "rating_score", Task.TEXT: "style_f1"}

#: A word with its case, hashes, apostrophes and hyphens, or a run of other visible characters: punctuation, emoji.
_TOKEN = re.compile(r"[\w#'-]+|[^\w\s]+")


class Pair(NamedTuple):
    """An answer beside the user's truth. `options` are the query's; ratings need them for their range."""

    answer: str
    truth: str
    options: Sequence[str] = STARS


class Interval(NamedTuple):
    """A mean difference with its 95 % interval; positive: better afterwards."""

    mean: float
    low: float
    high: float


def score(task: Task, answer: str, truth: str, options: Sequence[str]) -> float:
    """One answer's score in [0, 1], higher is better. Raises ValueError if the truth of a rating is not a number."""
    answer, truth = answer.strip(), truth.strip()
    match task:
        case Task.LABEL:
            return float(answer == truth)
        case Task.RATING:
            low, high = _range(options)
            return 1.0 - min(1.0, rating_error(answer, truth, options) / (high - low)) if high > low else float(answer == truth)
        case Task.TEXT:
            return style_f1(answer, truth)


def metrics(task: Task, pairs: Iterable[Pair]) -> dict[str, float]:
    """Every metric of a task, as plain means over `pairs`. Raises ValueError if there are none."""
    pairs = [Pair(*pair) for pair in pairs]
    if not pairs:
        raise ValueError("no answers to measure")
    means = {METRIC[task]: fmean(score(task, *pair) for pair in pairs)}
    if task is Task.RATING:
        means["mae"] = fmean(rating_error(*pair) for pair in pairs)
    if task is Task.TEXT:
        both = [rouge(pair.answer, pair.truth) for pair in pairs]
        means |= {"rouge_1": fmean(unigrams for unigrams, _ in both), "rouge_l": fmean(longest for _, longest in both)}
    return means


def is_valid(task: Task, answer: str, options: Sequence[str]) -> bool:
    """Whether the query allows the answer; free text must not be empty."""
    return bool(answer.strip()) if task is Task.TEXT else answer.strip() in options


def rating_error(answer: str, truth: str, options: Sequence[str]) -> float:
    """|answer - truth| by LaMP-3's rule: an answer that is not a finite number counts as the option furthest from the truth."""
    gold = float(truth)
    low, high = _range(options)
    furthest = max(abs(gold - low), abs(high - gold))
    try:
        rating = float(answer)
    except ValueError:
        return furthest
    return abs(rating - gold) if math.isfinite(rating) else furthest


def style_f1(answer: str, truth: str) -> float:
    """Mean of unigram F1 and longest-common-subsequence F1 over tokens that keep case, punctuation and emoji."""
    predicted, gold = _TOKEN.findall(answer), _TOKEN.findall(truth)
    if not predicted or not gold:
        return float(predicted == gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return (shared + _common_subsequence(predicted, gold)) / (len(predicted) + len(gold))


def rouge(answer: str, truth: str) -> tuple[float, float]:
    """ROUGE-1 and sentence-level ROUGE-L, F-measure, without stemming: LaMP-5's and LaMP-7's metrics."""
    scores = _rouge_scorer().score(truth, answer)
    return float(scores["rouge1"].fmeasure), float(scores["rougeL"].fmeasure)


def paired_bootstrap(before_by_user: Mapping[str, float], after_by_user: Mapping[str, float], seed: int, resamples: int = 2000) -> Interval:
    """Mean of `after - before` over users with its 95 % percentile interval, users resampled with replacement.

    The unit is the user, because answers of one user are not independent. Raises ValueError unless both hold the same users, at least one.
    """
    if before_by_user.keys() != after_by_user.keys() or not before_by_user:
        raise ValueError("a paired comparison needs the same users on both sides, at least one")
    differences = [after_by_user[user] - before_by_user[user] for user in sorted(before_by_user)]
    return bootstrap(differences, fmean, seed, resamples)


def bootstrap(values: Sequence[T], statistic: Callable[[Sequence[T]], float], seed: int, resamples: int = 2000) -> Interval:
    """A statistic of `values` with its 95 % percentile bootstrap interval."""
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    resampled = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(resamples))
    return Interval(statistic(values), resampled[round(0.025 * (resamples - 1))], resampled[round(0.975 * (resamples - 1))])


def _range(options: Sequence[str]) -> tuple[float, float]:
    values = [float(option) for option in options]
    return min(values), max(values)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence. Each row of the table is the bits of one integer.

    Hyyrö (2004), "Bit-parallel LCS-length computation revisited": two texts of 16,000 tokens, the longest a message holds, take well under a second.
    """
    positions: dict[str, int] = {}
    for position, token in enumerate(left):
        positions[token] = positions.get(token, 0) | 1 << position
    row = all_ones = (1 << len(left)) - 1
    for token in right:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & all_ones
    return len(left) - row.bit_count()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
