"""Labels of HYDRA's training rows: whether an item helped the base model, and whether a candidate is right.

HYDRA compares cleaned texts by substring: for the reranker it asks whether the generation is inside the target, so an empty answer counts as right.
Here an answer is read as everywhere else in this project (`schemas.tasks.read_answer`), and must be the truth itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import mean

from infra.settings.hydra import TextMeasure
from schemas.sameness import is_blank, normalized
from schemas.scoring import rouge, style_f1
from schemas.tasks import read_answer


def is_right(answer: str, truth: str, options: Sequence[str]) -> bool:
    """Whether the answer names the option `truth`, which is in the query's spelling. A blank answer and one outside the options are wrong."""
    return read_answer(answer, options) == truth


def nearness(answer: str, truth: str, measure: TextMeasure) -> float:
    """How near a free text is to the truth, in [0, 1]. A blank one has 0."""
    if is_blank(answer):
        return 0.0
    if measure is TextMeasure.STYLE_F1:
        return style_f1(answer, truth)
    unigrams, longest = rouge(answer, truth)
    return (unigrams + longest) / 2


def above_mean(values: Sequence[float], groups: Sequence[Hashable]) -> list[int]:
    """1 for each value strictly above the mean of its group, else 0, in the order of the values. Members of a group need not be consecutive.

    A group of equal values has no 1.
    """
    members: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    # `mean` rounds the exact mean once; a rounded sum could put it below values that are all equal
    means = {group: mean(of_group) for group, of_group in members.items()}
    return [int(value > means[group]) for value, group in zip(values, groups, strict=True)]


def is_truth(candidate: str, truth: str) -> bool:
    """Whether a candidate is the same text as the truth."""
    return normalized(candidate) == normalized(truth)
