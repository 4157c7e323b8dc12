"""Scores of a replay: the metrics of base and final answers, overall and per user. Texts are compared as their readers see them (`schemas.scoring`);
`traffic.predictions` writes the answers for LaMP's official metrics, which are stricter.

Accuracy and macro-F1 for labels, MAE and RMSE for ratings, ROUGE-1 and ROUGE-L for text (LaMP's definitions), and the project's own score. ROUGE is computed
where it applies to the truth; `rouge_pairs` is the number of these answers, if they are not all (`schemas.scoring.metrics`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from schemas.domains import Domains
from schemas.measures import Measure, metrics
from schemas.sameness import normalized
from schemas.scoring import Pair, metric_domains, rating_error
from schemas.tasks import Task, option_of
from traffic.datasets.steps import Question

Side = Literal["base", "final"]
#: Metrics for which lower is better. For the others higher is better.
ERRORS = frozenset({"mae", "rmse", "ordinal_error"})


@dataclass(frozen=True)
class ScoredAnswer:
    """A question with a known truth, and both answers to it."""

    user: str
    domain: str
    task: Task
    options: tuple[str, ...]
    truth: str
    base: str
    final: str
    measure: Measure  # of its domain

    @classmethod
    def of(cls, question: Question, base: str, final: str, domains: Domains) -> ScoredAnswer | None:
        """None for a question without a truth. A query without options has those of its domain, as the workers answer it."""
        query = domains.completed(question.query)
        if question.truth is None:
            return None
        return cls(query.user, query.domain, query.task, query.options, question.truth, base, final, domains.metric(query.domain, query.task))

    def pair(self, side: Side) -> Pair:
        return Pair(self.base if side == "base" else self.final, self.truth, self.options)


def by_domain(judged: Iterable[ScoredAnswer]) -> dict[str, dict[str, object]]:
    """The project's metrics per domain: `{domain: {task, metric, users, questions, base: {...}, final: {...}}}`.

    A domain with several tasks is split (`schemas.scoring.metric_domains`).
    """
    judged = list(judged)
    return {
        domain: {
            "task": answers[0].task.value,
            "metric": answers[0].measure.name,
            "users": len({answer.user for answer in answers}),
            "questions": len(answers),
            "base": all_metrics(answers, "base"),
            "final": all_metrics(answers, "final"),
        }
        for domain, answers in _grouped(judged, _domain_name(judged)).items()
    }


def by_user(judged: Iterable[ScoredAnswer]) -> dict[str, dict[str, dict[str, object]]]:
    """Per user and domain, without macro-F1, which means nothing for a few labels."""
    judged = list(judged)
    found, name = dict[str, dict[str, dict[str, object]]](), _domain_name(judged)
    for user, answers in _grouped(judged, lambda answer: answer.user).items():
        found[user] = {
            domain: {"questions": len(own), "base": _metrics(own, "base"), "final": _metrics(own, "final")} for domain, own in _grouped(answers, name).items()
        }
    return found


def all_metrics(judged: Sequence[ScoredAnswer], side: Side) -> dict[str, float]:
    """All metrics of one domain's answers. Raises ValueError if there are none."""
    found, pairs = _metrics(judged, side), [answer.pair(side) for answer in judged]
    if judged[0].task is Task.LABEL:
        found["macro_f1"] = macro_f1(pairs, sorted({option for answer in judged for option in answer.options}))
    if judged[0].task is Task.RATING:
        found["rmse"] = math.sqrt(fmean(rating_error(*pair) ** 2 for pair in pairs))
    return found


def macro_f1(pairs: Sequence[Pair], options: Sequence[str]) -> float:
    """Mean F1 over all `options`. Options that never occur score 0, as in LaMP-2. An unknown answer is wrong for every option."""
    given = [(_label(pair.answer, options), _label(pair.truth, options)) for pair in pairs]
    return fmean(_f1([(answer == option, truth == option) for answer, truth in given]) for option in [_label(option, options) for option in options])


def _label(text: str, options: Sequence[str]) -> str:
    """The option that is the same text, or else the text itself, in the form that is compared."""
    return normalized(option_of(text, options) or text, keep_quotes=True)


def _f1(given_and_gold: Iterable[tuple[bool, bool]]) -> float:
    hits = [given + gold for given, gold in given_and_gold if given or gold]
    return sum(hit == 2 for hit in hits) * 2 / sum(hits) if hits else 0.0


def _metrics(judged: Sequence[ScoredAnswer], side: Side) -> dict[str, float]:
    return dict(metrics(judged[0].measure, judged[0].task, [answer.pair(side) for answer in judged]))


def _domain_name(judged: Iterable[ScoredAnswer]) -> Callable[[ScoredAnswer], str]:
    names = metric_domains((answer.domain, answer.task) for answer in judged)
    return lambda answer: names[answer.domain, answer.task]


def _grouped(judged: Iterable[ScoredAnswer], name: Callable[[ScoredAnswer], str]) -> Mapping[str, list[ScoredAnswer]]:
    groups: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in judged:
        groups[name(answer)].append(answer)
    return dict(sorted(groups.items()))
