"""Measures: the ways to score one answer against the user's truth, by the names that `[domains.NAME]` gives to `metric` and `reward`.

Each gives a score in [0, 1], higher is better, so that a reward needs no other scale. An error over a scale becomes 1 - error / largest possible error of the
scale. A measure of one's own is an entry point `module:callable`; it gets the answer, the truth and the query's options, and returns such a score.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from schemas import scoring
from schemas.sameness import is_blank, visible
from schemas.tasks import Task, choose_option, is_same_label

Score = Callable[[str, str, Sequence[str]], float]


class MeasureFailed(ValueError):
    """An entry point raised, or returned no score in [0, 1]. The message holds no users' text."""


@dataclass(frozen=True)
class Measure:
    """`score` of an answer, the truth and the query's options. Raises MeasureFailed if it is an entry point that fails."""

    name: str
    score: Score
    tasks: frozenset[Task]  # kinds of answers that it can score
    needs_order: bool = False  # it reads the options as a scale, lowest first


def ordinal_score(answer: str, truth: str, options: Sequence[str]) -> float:
    """1 - `ordinal_error` / (number of options - 1)."""
    if len(options) < 2:
        return float(is_same_label(answer, truth, options))
    return 1.0 - ordinal_error(answer, truth, options) / (len(options) - 1)


def ordinal_error(answer: str, truth: str, options: Sequence[str]) -> float:
    """The number of steps between answer and truth on the scale of `options`. An answer that is none of them counts as the one furthest from the truth.

    Raises ValueError if the truth is none of them.
    """
    named = choose_option(truth, options)
    if named is None or named not in options:
        raise ValueError("the truth is none of the options")
    rank, chosen = options.index(named), choose_option(answer, options)
    return float(max(rank, len(options) - 1 - rank) if chosen is None else abs(options.index(chosen) - rank))


def chrf(answer: str, truth: str, options: Sequence[str] = ()) -> float:
    """chrF2: F-score of character n-grams up to 6, recall counts twice (Popović 2015), by sacrebleu. In [0, 1]. Blank texts are equal."""
    if is_blank(answer) or is_blank(truth):
        return float(is_blank(answer) and is_blank(truth))
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(visible(answer), [visible(truth)]).score) / 100


def _style(answer: str, truth: str, options: Sequence[str]) -> float:
    return scoring.style_f1(answer, truth)


def _rouge(answer: str, truth: str, options: Sequence[str]) -> float:
    return sum(scoring.rouge(answer, truth)) / 2


def _rouge_1(answer: str, truth: str, options: Sequence[str]) -> float:
    return scoring.rouge(answer, truth)[0]


def _rouge_l(answer: str, truth: str, options: Sequence[str]) -> float:
    return scoring.rouge(answer, truth)[1]


_OPTIONS, _TEXT = frozenset({Task.LABEL, Task.RATING}), frozenset({Task.TEXT})
MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("accuracy", scoring.accuracy, frozenset(Task)),
        Measure("rating_score", scoring.rating_score, frozenset({Task.RATING})),
        Measure("ordinal_score", ordinal_score, _OPTIONS, needs_order=True),
        Measure("style_f1", _style, _TEXT),
        Measure("rouge", _rouge, _TEXT),
        Measure("rouge_1", _rouge_1, _TEXT),
        Measure("rouge_l", _rouge_l, _TEXT),
        Measure("chrf", chrf, _TEXT),
    )
}


def metrics(measure: Measure, task: Task, pairs: Iterable[scoring.Pair]) -> dict[str, float]:
    """The mean of `measure`, and beside it every metric of the kind of answer (`schemas.scoring.metrics`); of a scale also `ordinal_error`, in steps.

    Raises ValueError if there are no pairs, and MeasureFailed.
    """
    pairs = [scoring.Pair(*pair) for pair in pairs]
    beside = scoring.metrics(task, pairs)
    if measure.name == scoring.METRIC[task]:
        return beside
    found = {measure.name: fmean(measure.score(*pair) for pair in pairs)}
    if measure.needs_order:
        found["ordinal_error"] = fmean(ordinal_error(*pair) for pair in pairs)
    return {**beside, **found}


@lru_cache(maxsize=256)
def measure_of(name: str) -> Measure:
    """A measure of MEASURES, or that of an entry point, which is imported. Raises ValueError with what would be right."""
    if name in MEASURES:
        return MEASURES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"is unknown: use {', '.join(MEASURES)}, or an entry point module:callable")
    return Measure(name, _bounded(name, _callable(module, attribute)), frozenset(Task))


def _callable(module: str, attribute: str) -> Callable[..., Any]:
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError("is no entry point: write module:callable, such as platform_metrics:tone")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise ValueError(f"the module {module} has no {attribute}: name a function of it") from None
    except Exception as error:
        raise ValueError(f"the module {module} cannot be imported ({type(error).__name__}): install it where every process runs") from None
    if not callable(found):
        raise ValueError(f"{attribute} of {module} is no function: name one that takes answer, truth and options")
    try:
        inspect.signature(found).bind("answer", "truth", ())
    except TypeError:
        raise ValueError(f"{attribute} of {module} does not take three arguments: answer, truth and options") from None
    except ValueError:  # a function written in C
        pass
    return found  # type: ignore[no-any-return]  # checked above


def _bounded(name: str, call: Callable[..., Any]) -> Score:
    def score(answer: str, truth: str, options: Sequence[str]) -> float:
        try:
            value = float(call(answer, truth, options))
        except Exception as error:
            raise MeasureFailed(f"the measure {name} failed ({type(error).__name__})") from None
        if not math.isfinite(value) or not 0 <= value <= 1:
            raise MeasureFailed(f"the measure {name} returned {value}; a score lies in [0, 1]")
        return value

    return score
