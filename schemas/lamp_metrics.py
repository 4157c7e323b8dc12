"""LaMP's official metrics: the figures of `eval/evaluation.py` in LaMP-Benchmark/LaMP (commit 38c9d4d8), for figures beside published ones.

`schemas.scoring` measures the same quantities for rewards, online quality and reports, and is gentler on purpose: it compares texts as their readers see
them (one Unicode form, quotes taken off) and bounds the error of a rating. Models are trained and compared with it. Published figures follow stricter rules:

- every task: white space around a text is removed, and nothing else. Letter case, quotes, punctuation and words around the answer count;
- LaMP-2: a text that is none of the 15 movie tags is unknown. Accuracy over all questions counts an unknown prediction of an unknown gold as right.
  F1 is the mean over all 15 tags; a tag that never occurs has F1 0;
- LaMP-3: Python's `float()` reads the prediction. A text that it refuses counts as the end of the scale that is further from the gold: 5 for a gold of 1,
  2 or 3, else 1. Numbers stand as they are: `6`, `-1`, `3.7`, and `1_0` is 10. They are rounded to float32. NaN and infinity have no figure: the script
  stops there;
- LaMP-4, LaMP-5 and LaMP-7: ROUGE-1 and ROUGE-L (`schemas.rouge`). The script prints the median of 1,000 bootstrap means, without a seed, which moves in the
  third decimal. Here it is the plain mean, which the median estimates;
- GOQA (GlobalOpinionQA, not in LaMP): accuracy by exact option.

The metrics have the names that the script prints.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from statistics import fmean

from schemas.rouge import rouge_scores
from schemas.tasks import MOVIE_TAGS

LOWEST, HIGHEST = 1.0, 5.0
#: Index of a text that is none of the labels.
UNKNOWN = -1


class OfficialTask(StrEnum):
    """Tasks with official metrics, by the name in LaMP's files."""

    LAMP_2 = "LaMP_2"  # movie tags; the older LaMP_2 had news categories
    LAMP_3 = "LaMP_3"
    LAMP_4 = "LaMP_4"
    LAMP_5 = "LaMP_5"
    LAMP_7 = "LaMP_7"
    GOQA = "GOQA"


class NotMeasurable(ValueError):
    """The script has no finite figure for these texts. `number` is the position of the one that causes it; `is_gold` says in which sequence."""

    def __init__(self, cause: str, number: int, *, is_gold: bool) -> None:
        super().__init__(cause)
        self.number, self.is_gold = number, is_gold


def official_metrics(task: OfficialTask, predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """The metrics of a task over predictions and golds in the same order. Raises ValueError if there are none, and NotMeasurable."""
    if not golds or len(predictions) != len(golds):
        raise ValueError(f"{len(predictions)} predictions for {len(golds)} golds; expected as many, at least one")
    return _METRICS[task]([text.strip() for text in predictions], [text.strip() for text in golds])


def unknown_labels(task: OfficialTask, texts: Sequence[str]) -> int:
    """The number of texts that are no label of the task. 0 for tasks without labels."""
    return sum(_label(text.strip()) == UNKNOWN for text in texts) if task is OfficialTask.LAMP_2 else 0


def _label_metrics(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    predicted, gold = list(map(_label, predictions)), list(map(_label, golds))
    return {"accuracy": _agreement(predicted, gold), "f1": fmean(_f1(predicted, gold, label) for label in range(len(MOVIE_TAGS)))}


def _label(text: str) -> int:
    return MOVIE_TAGS.index(text) if text in MOVIE_TAGS else UNKNOWN


def _f1(predicted: Sequence[int], gold: Sequence[int], label: int) -> float:
    right = sum(given == label == true for given, true in zip(predicted, gold, strict=True))
    named = predicted.count(label) + gold.count(label)
    return 2 * right / named if named else 0.0


def _option_accuracy(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    return {"accuracy": _agreement(predictions, golds)}


def _agreement(predicted: Sequence[object], gold: Sequence[object]) -> float:
    return sum(given == true for given, true in zip(predicted, gold, strict=True)) / len(gold)


def _rating_metrics(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    true = [_gold_rating(text, number) for number, text in enumerate(golds)]
    given = [_float32(_rating(text, gold)) for text, gold in zip(predictions, true, strict=True)]
    for number, rating in enumerate(given):
        if not math.isfinite(rating):
            raise NotMeasurable("no finite number in float32", number, is_gold=False)
    errors = [abs(rating - _float32(gold)) for rating, gold in zip(given, true, strict=True)]
    return {"MAE": fmean(errors), "RMSE": math.sqrt(fmean(error**2 for error in errors))}


def _gold_rating(text: str, number: int) -> float:
    try:
        gold = float(text)
    except ValueError:
        raise NotMeasurable("no number", number, is_gold=True) from None
    if not math.isfinite(_float32(gold)):
        raise NotMeasurable("no finite number in float32", number, is_gold=True)
    return gold


def _rating(text: str, gold: float) -> float:
    try:
        return float(text)
    except ValueError:
        return LOWEST if abs(LOWEST - gold) > abs(HIGHEST - gold) else HIGHEST


def _float32(value: float) -> float:
    """The nearest number in float32, in which `evaluate` keeps predictions and golds. Infinite beyond its range."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


def _text_metrics(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    scores = [rouge_scores(prediction, gold) for prediction, gold in zip(predictions, golds, strict=True)]
    return {"rouge-1": fmean(score.unigrams for score in scores), "rouge-L": fmean(score.longest for score in scores)}


_METRICS: Mapping[OfficialTask, Callable[[Sequence[str], Sequence[str]], dict[str, float]]] = {
    OfficialTask.LAMP_2: _label_metrics,
    OfficialTask.LAMP_3: _rating_metrics,
    OfficialTask.LAMP_4: _text_metrics,
    OfficialTask.LAMP_5: _text_metrics,
    OfficialTask.LAMP_7: _text_metrics,
    OfficialTask.GOQA: _option_accuracy,
}
