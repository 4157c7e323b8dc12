"""The scores of answers against the user's truth that need no choice of a domain: one in [0, 1] per answer, metrics over many answers, confidence intervals.

Answers are scored by the measure of their domain, `schemas.domains.Domains.metric` and `reward`. A domain whose entry names none has the measure of its kind of
answer, `METRIC`, for both, so that RL and the evaluation have the same goal. As in RPO it is the task's metric as LaMP defines it:

- label: the same text (`schemas.tasks.is_same_label`), `accuracy`;
- rating: 1 - |error| / range of the options, `rating_score`, with LaMP-3's `mae` beside it. An answer that is not a number has the largest error;
- text: `style_f1`, with LaMP's `rouge_1` and `rouge_l` (rouge_score 0.1.2, no stemming) beside it.

ROUGE lower-cases and drops punctuation, so it ignores emoji, exclamation marks and capitals, which are much of a user's style.
`style_f1` is the mean of the same two F-measures (unigrams, longest common subsequence) over tokens that keep them, in any script (`schemas.words`).
ROUGE counts only words of the letters a to z and digits, so it is computed only for truths that have enough of them (`rouge_applies`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypeVar

from schemas.rouge import common_subsequence, rouge_scores
from schemas.sameness import is_blank, normalized, visible
from schemas.tasks import STARS, Task, choose_option, is_same_label
from schemas.words import tokens_of, words_of

T = TypeVar("T")

#: The measure of each kind of answer, by its name in `schemas.measures`.
METRIC = {Task.LABEL: "accuracy", Task.RATING: "rating_score", Task.TEXT: "style_f1"}


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


def accuracy(answer: str, truth: str, options: Sequence[str]) -> float:
    """1 for the same label, else 0."""
    return float(is_same_label(answer, truth, options))


def rating_score(answer: str, truth: str, options: Sequence[str]) -> float:
    """1 - `rating_error` / range of the options, in [0, 1]. Raises ValueError if the truth is not a number."""
    low, high = _range(options)
    return accuracy(answer, truth, options) if high == low else 1.0 - min(1.0, rating_error(answer, truth, options) / (high - low))


def metric_domains(kinds: Iterable[tuple[str, Task]]) -> dict[tuple[str, Task], str]:
    """The name under which answers of each domain and task are measured: a domain with several tasks is split into `domain/task`.

    Each task has its own metrics.
    """
    kinds = set(kinds)
    tasks = Counter(domain for domain, _ in kinds)
    return {(domain, task): domain if tasks[domain] == 1 else f"{domain}/{task}" for domain, task in kinds}


def metrics(task: Task, pairs: Iterable[Pair]) -> dict[str, float]:
    """Every metric of a task, as plain means over `pairs`. Raises ValueError if there are none.

    ROUGE is the mean over the pairs that it applies to. `rouge_pairs` is their number if they are not all; without any, ROUGE is left out.
    """
    pairs = [Pair(*pair) for pair in pairs]
    if not pairs:
        raise ValueError("no answers to measure")
    means = {METRIC[task]: fmean(_of_kind(task, pair) for pair in pairs)}
    if task is Task.RATING:
        means["mae"] = fmean(rating_error(*pair) for pair in pairs)
    if task is Task.TEXT:
        both = [rouge(pair.answer, pair.truth) for pair in pairs if rouge_applies(pair.truth)]
        if both:
            means |= {"rouge_1": fmean(unigrams for unigrams, _ in both), "rouge_l": fmean(longest for _, longest in both)}
        if 0 < len(both) < len(pairs):
            means["rouge_pairs"] = len(both)
    return means


def is_valid(task: Task, answer: str, options: Sequence[str]) -> bool:
    """Whether the query allows the answer; free text must not be blank."""
    return not is_blank(answer) if task is Task.TEXT else choose_option(answer, options) is not None


def rating_error(answer: str, truth: str, options: Sequence[str]) -> float:
    """|answer - truth| by LaMP-3's rule: an answer that is not a finite number counts as the option furthest from the truth."""
    gold = float(normalized(truth))
    low, high = _range(options)
    furthest = max(abs(gold - low), abs(high - gold))
    try:
        rating = float(normalized(answer))
    except ValueError:
        return furthest
    return abs(rating - gold) if math.isfinite(rating) else furthest


def style_f1(answer: str, truth: str) -> float:
    """Mean of unigram F1 and longest-common-subsequence F1 over tokens that keep case, punctuation and emoji. Texts without tokens are equal."""
    predicted, gold = tokens_of(answer), tokens_of(truth)
    if not predicted or not gold:
        return float(predicted == gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return (shared + common_subsequence(predicted, gold)) / (len(predicted) + len(gold))


def rouge(answer: str, truth: str) -> tuple[float, float]:
    """ROUGE-1 and ROUGE-L (`schemas.rouge`) of the texts as their readers see them, so that `café` composed and decomposed are the same.

    LaMP's own figures, which count the texts as they are written, come from `schemas.lamp_metrics`.
    """
    return rouge_scores(visible(answer), visible(truth))


def rouge_applies(truth: str) -> bool:
    """Whether ROUGE counts at least half of the truth's words: those with a letter from a to z. It ignores the words of other scripts, such as Hebrew."""
    words = [word for word in words_of(truth) if any(map(str.isalpha, word))]
    return 2 * sum(any("a" <= character <= "z" for character in word.lower()) for word in words) >= len(words)


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


def _of_kind(task: Task, pair: Pair) -> float:
    match task:
        case Task.LABEL:
            return accuracy(*pair)
        case Task.RATING:
            return rating_score(*pair)
        case Task.TEXT:
            return style_f1(pair.answer, pair.truth)


def _range(options: Sequence[str]) -> tuple[float, float]:
    values = [float(option) for option in options]
    return min(values), max(values)
