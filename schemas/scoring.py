"""How good an answer is, given what the user did instead: one score in [0, 1] per answer, the metrics of many, and their uncertainty.

The score is the RL reward and what evaluation compares, so that both pull the same way. RPO takes its rewards from the tasks' metrics, as LaMP defines them:

- label: exact match, `accuracy`;
- rating: 1 - |error| / range of the options, `rating_score`, with LaMP-3's `mae` beside it. What is no number counts as the far end;
- text: `style_f1`, with LaMP's `rouge_1` and `rouge_l` (rouge_score 0.1.2, no stemming) beside it.

ROUGE lower-cases and drops punctuation, hence all of a user's emoji, exclamation marks and capitals: half of what makes a text theirs.
`style_f1` is the mean of the same two F-measures (unigrams, longest common subsequence) over tokens that keep them.
Pure Python; rouge_score is imported only where ROUGE is asked for.
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

#: The name of `score` by task: what reports call the figure.
METRIC = {Task.LABEL: "accuracy", Task.RATING: "rating_score", Task.TEXT: "style_f1"}

#: A word with its case, hashes, apostrophes and hyphens, or a run of anything else that shows: punctuation, emoji.
_TOKEN = re.compile(r"[\w#'-]+|[^\w\s]+")


class Pair(NamedTuple):
    """An answer beside the user's truth. `options` are the query's; ratings need them for their range."""

    answer: str
    truth: str
    options: Sequence[str] = STARS


class Interval(NamedTuple):
    """A mean difference with its 95 % interval; positive means better afterwards."""

    mean: float
    low: float
    high: float


def score(task: Task, answer: str, truth: str, options: Sequence[str]) -> float:
    """One answer's score in [0, 1], higher is better. Raises ValueError when the truth of a rating is no number."""
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
    """Every metric of a task, as plain means over `pairs`. Raises ValueError when there are none."""
    pairs = [Pair(*pair) for pair in pairs]
    if not pairs:
        raise ValueError("no answers to measure")
    found = {METRIC[task]: fmean(score(task, *pair) for pair in pairs)}
    if task is Task.RATING:
        found["mae"] = fmean(rating_error(*pair) for pair in pairs)
    if task is Task.TEXT:
        both = [rouge(pair.answer, pair.truth) for pair in pairs]
        found |= {"rouge_1": fmean(one for one, _ in both), "rouge_l": fmean(longest for _, longest in both)}
    return found


def is_valid(task: Task, answer: str, options: Sequence[str]) -> bool:
    """Whether an answer is one the query allows; free text only has to say something."""
    return bool(answer.strip()) if task is Task.TEXT else answer.strip() in options


def rating_error(answer: str, truth: str, options: Sequence[str]) -> float:
    """|answer - truth| by LaMP-3's rule: what `float` refuses, or is not finite, counts as the option furthest from the truth."""
    gold = float(truth)
    low, high = _range(options)
    furthest = max(abs(gold - low), abs(high - gold))
    try:
        given = float(answer)
    except ValueError:
        return furthest
    return abs(given - gold) if math.isfinite(given) else furthest


def style_f1(answer: str, truth: str) -> float:
    """Mean of unigram F1 and longest-common-subsequence F1 over tokens that keep case, punctuation and emoji."""
    given, gold = _TOKEN.findall(answer), _TOKEN.findall(truth)
    if not given or not gold:
        return float(given == gold)
    shared = sum((Counter(given) & Counter(gold)).values())
    return (shared + _common_subsequence(given, gold)) / (len(given) + len(gold))


def rouge(answer: str, truth: str) -> tuple[float, float]:
    """ROUGE-1 and sentence-level ROUGE-L, F-measure, without stemming: LaMP-5's and LaMP-7's metrics."""
    scores = _rouge_scorer().score(truth, answer)
    return float(scores["rouge1"].fmeasure), float(scores["rougeL"].fmeasure)


def paired_bootstrap(before_by_user: Mapping[str, float], after_by_user: Mapping[str, float], seed: int, resamples: int = 2000) -> Interval:
    """Mean of `after - before` over users with its 95 % percentile interval, users resampled with replacement.

    The unit is the user because answers of one user are not independent. Raises ValueError unless both hold the same users, at least one.
    """
    if before_by_user.keys() != after_by_user.keys() or not before_by_user:
        raise ValueError("a paired comparison needs the same users on both sides, at least one")
    differences = [after_by_user[user] - before_by_user[user] for user in sorted(before_by_user)]
    return bootstrap(differences, fmean, seed, resamples)


def bootstrap(values: Sequence[T], statistic: Callable[[Sequence[T]], float], seed: int, resamples: int = 2000) -> Interval:
    """A statistic of `values` with its 95 % percentile bootstrap interval."""
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    drawn = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(resamples))
    return Interval(statistic(values), drawn[round(0.025 * (resamples - 1))], drawn[round(0.975 * (resamples - 1))])


def _range(options: Sequence[str]) -> tuple[float, float]:
    values = [float(option) for option in options]
    return min(values), max(values)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table in the bits of one integer.

    Hyyrö (2004), "Bit-parallel LCS-length computation revisited": two texts of 16,000 tokens, the longest a message holds, take well under a second.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << place
    row = everything = (1 << len(left)) - 1
    for token in right:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & everything
    return len(left) - row.bit_count()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
