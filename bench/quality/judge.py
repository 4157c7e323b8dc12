"""Judges the answers of all arms: metrics of each task, and differences between arms, paired by question, with intervals over users. No I/O.

How users and domains count: `schemas.user_means`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple
from uuid import UUID

from bench.quality.answers import AnswerLog, ArmAnswer
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.lamp_metrics import NotMeasurable, OfficialTask, official_metrics
from schemas.measures import Measure, metrics
from schemas.queries import Query
from schemas.sameness import normalized, visible
from schemas.scoring import Interval, Pair, metric_domains
from schemas.strategies import Strategy
from schemas.tasks import MOVIE_TAGS, STARS, choose_option
from schemas.user_means import ByDomain, by_metric, difference, difference_over_domains, mean, mean_over_domains, users_of
from traffic.datasets.steps import Question
from traffic.figures import ERRORS, ScoredAnswer, all_metrics
from traffic.observer import percentile
from traffic.predictions import TASKS

#: Suffix of an arm whose answers are cleaned: small base models write several lines, quotes around a title, and sentences around a label or a score.
CLEANED = " (cleaned)"
#: Suffix of an arm of another run with the same questions (`--against`).
OTHER = " (other run)"
#: Every arm is compared with these, where they were asked, with its own strategy without a number of items, retriever or variant, and with its other run.
REFERENCES = (str(Strategy.ZERO_SHOT), str(Strategy.RAG), Strategy.RAG + CLEANED, str(Strategy.RPO))
#: All domains together, and the one metric there: the score, as a mean over domains.
ALL_DOMAINS = "all"
MEAN_SCORE = "mean score"

#: The labels that LaMP's metrics know.
_LABELS = {OfficialTask.LAMP_2: MOVIE_TAGS, OfficialTask.LAMP_3: STARS}

#: What follows the strategy in the name of an arm.
_NAME_AFTER_STRATEGY = re.compile(r"[#@: ].*")

#: The end of a scale after a score.
_OUT_OF = re.compile(r"(?<=\d)\s*(?:/|\bout of\b)\s*\d+")


@dataclass(frozen=True)
class DomainScores:
    """One arm in one domain. `intervals` are means over users, of every metric that each answer has: macro F1 and RMSE are no means of answers.

    `metrics` are of all answers together, and `official` are LaMP's (`retouch evaluate`), for its domains; both without intervals.
    """

    metric: str  # that is the score
    score: Interval
    users: int
    questions: int
    intervals: Mapping[str, Interval]
    metrics: Mapping[str, float]
    official: Mapping[str, float]


@dataclass(frozen=True)
class ArmCost:
    """Means over the questions, of the base model and of the reflection model; latency in milliseconds, beside the other questions in flight.

    `overhead_p50_ms`: the latency without the calls of the models. `own_overhead_p50_ms`: the same, of the answers that no simpler strategy gave; None without
    such answers.
    """

    base_prompt_tokens: float
    base_completion_tokens: float
    reflect_prompt_tokens: float
    reflect_completion_tokens: float
    latency_p50_ms: float
    latency_p99_ms: float
    overhead_p50_ms: float
    own_overhead_p50_ms: float | None

    @property
    def tokens(self) -> float:
        """Of both models, in and out."""
        return self.base_prompt_tokens + self.base_completion_tokens + self.reflect_prompt_tokens + self.reflect_completion_tokens


@dataclass(frozen=True)
class ArmFigures:
    domains: Mapping[str, DomainScores]  # by domain, and ALL_DOMAINS if there are several
    answered: int
    statuses: Mapping[str, int]
    answered_by: Mapping[str, int]  # simpler strategies that answered instead
    cost: ArmCost


@dataclass(frozen=True)
class Difference:
    """A metric of `after` minus that of `before`, over the users and questions that both have."""

    after: str
    before: str
    domain: str
    metric: str
    interval: Interval
    users: int
    is_score: bool  # the domain's own metric, or the mean of all; others stand beside it

    @property
    def verdict(self) -> str:
        low, high = (-self.interval.high, -self.interval.low) if self.metric in ERRORS else (self.interval.low, self.interval.high)
        return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


@dataclass(frozen=True)
class Judgement:
    arms: Mapping[str, ArmFigures]
    differences: Sequence[Difference]

    @property
    def headline(self) -> str:
        """All domains together, or the only one."""
        domains = sorted({domain for figures in self.arms.values() for domain in figures.domains})
        return ALL_DOMAINS if ALL_DOMAINS in domains else domains[0]

    def difference(self, after: str, before: str) -> Difference | None:
        """In the score, over all domains together."""
        pairs = {(each.after, each.before): each for each in self.differences if each.is_score and each.domain == self.headline}
        return pairs.get((after, before))


def judge(log: AnswerLog, questions: Sequence[Question], other: AnswerLog | None = None, entries: Domains = BUILT_IN_DOMAINS) -> Judgement:
    """Arms without answers are left out. Arms that the other run asked too stand beside them with the suffix OTHER, and are compared with them.

    `entries` name the metric of each domain.
    """
    by_id = _by_id(questions, entries)
    answers = {arm: given for arm, given in log.by_arm.items() if given}
    if other:
        answers |= {arm + OTHER: given for arm in answers if (given := other.by_arm.get(arm))}
    for arm in [arm for arm in answers if arm in (Strategy.RAG, Strategy.ZERO_SHOT)]:
        cleaned = {id: _cleaned(answer, by_id[id].query.options) for id, answer in answers[arm].items()}
        if cleaned != answers[arm]:
            answers[arm + CLEANED] = cleaned
    values = {arm: _values(given, by_id) for arm, given in answers.items()}
    figures = {arm: _figures(given, by_id, values[arm]) for arm, given in answers.items()}
    return Judgement(figures, list(_differences(values, by_id)))


def headline(figures: ArmFigures) -> DomainScores:
    """All domains together, or the only one."""
    return figures.domains.get(ALL_DOMAINS) or next(iter(figures.domains.values()))


class _Asked(NamedTuple):
    query: Query
    truth: str
    domain: str  # as `metric_domains` names it
    measure: Measure


def _by_id(questions: Sequence[Question], entries: Domains) -> dict[UUID, _Asked]:
    """The questions with a truth. No others are asked."""
    queries = [(entries.completed(question.query), question.truth) for question in questions]
    names = metric_domains((query.domain, query.task) for query, _ in queries)
    return {
        query.query_id: _Asked(query, truth, names[query.domain, query.task], entries.metric(query.domain, query.task))
        for query, truth in queries
        if truth is not None
    }


#: The metrics of each answer, by the id of its question.
Values = Mapping[UUID, Mapping[str, float]]


def _values(answers: Mapping[UUID, ArmAnswer], by_id: Mapping[UUID, _Asked]) -> Values:
    asked = {id: by_id[id] for id in answers}
    return {id: metrics(measure, query.task, [Pair(answers[id].answer, truth, query.options)]) for id, (query, truth, _, measure) in asked.items()}


def _figures(answers: Mapping[UUID, ArmAnswer], by_id: Mapping[UUID, _Asked], values: Values) -> ArmFigures:
    domains = {}
    for domain, ids in _by_domain(answers, by_id).items():
        scored = [_scored(by_id[id], answers[id]) for id in ids]
        intervals = {metric: mean(users) for metric, users in _by_metric(ids, values, by_id).items()}
        metric, users = by_id[ids[0]].measure.name, {by_id[id].query.key for id in ids}
        domains[domain] = DomainScores(metric, intervals[metric], len(users), len(ids), intervals, all_metrics(scored, "final"), _official(scored))
    if len(domains) > 1:
        scores = _scores(answers, values, by_id)
        overall = mean_over_domains(scores)
        domains[ALL_DOMAINS] = DomainScores(MEAN_SCORE, overall, len(users_of(scores)), len(answers), {MEAN_SCORE: overall}, {}, {})
    given = list(answers.values())
    return ArmFigures(
        domains=domains,
        answered=len(given),
        statuses=dict(Counter(answer.status for answer in given)),
        answered_by=dict(Counter(answer.answered_by for answer in given if answer.answered_by)),
        cost=_cost(given),
    )


def _cost(answers: Sequence[ArmAnswer]) -> ArmCost:
    latencies = [answer.latency_ms for answer in answers]
    own = [answer for answer in answers if answer.answered_by is None]
    return ArmCost(
        base_prompt_tokens=fmean(answer.base.prompt_tokens for answer in answers),
        base_completion_tokens=fmean(answer.base.completion_tokens for answer in answers),
        reflect_prompt_tokens=fmean(answer.reflect.prompt_tokens for answer in answers),
        reflect_completion_tokens=fmean(answer.reflect.completion_tokens for answer in answers),
        latency_p50_ms=percentile(latencies, 0.5) or 0.0,
        latency_p99_ms=percentile(latencies, 0.99) or 0.0,
        overhead_p50_ms=percentile([answer.latency_ms - answer.model_ms for answer in answers], 0.5) or 0.0,
        own_overhead_p50_ms=percentile([answer.latency_ms - answer.model_ms for answer in own], 0.5),
    )


def _differences(values: Mapping[str, Values], by_id: Mapping[UUID, _Asked]) -> Iterator[Difference]:
    for after in values:
        for before in dict.fromkeys([*REFERENCES, _NAME_AFTER_STRATEGY.sub("", after), after + OTHER]):
            if before not in values or after.removesuffix(CLEANED) == before.removesuffix(CLEANED):
                continue
            common = values[after].keys() & values[before].keys()
            domains = _by_domain(common, by_id)
            for domain, ids in domains.items():
                of_before, of_after = (_by_metric(ids, values[arm], by_id) for arm in (before, after))
                for metric, users in of_after.items():
                    yield Difference(after, before, domain, metric, difference(of_before[metric], users), len(users), metric == by_id[ids[0]].measure.name)
            if len(domains) > 1:
                of_all_before, of_all_after = (_scores(common, values[arm], by_id) for arm in (before, after))
                overall = difference_over_domains(of_all_before, of_all_after)
                yield Difference(after, before, ALL_DOMAINS, MEAN_SCORE, overall, len(users_of(of_all_after)), is_score=True)


def _scores(ids: Iterable[UUID], values: Values, by_id: Mapping[UUID, _Asked]) -> ByDomain:
    """The mean score of each user by domain."""
    return {domain: _by_metric(own, values, by_id)[by_id[own[0]].measure.name] for domain, own in _by_domain(ids, by_id).items()}


def _by_metric(ids: Iterable[UUID], values: Values, by_id: Mapping[UUID, _Asked]) -> dict[str, dict[str, float]]:
    """By metric and `tenant/user`."""
    return by_metric((by_id[id].query.key.decode(), values[id]) for id in ids)


def _by_domain(ids: Iterable[UUID], by_id: Mapping[UUID, _Asked]) -> dict[str, list[UUID]]:
    groups: dict[str, list[UUID]] = defaultdict(list)
    for id in sorted(ids):
        groups[by_id[id].domain].append(id)
    return dict(sorted(groups.items()))


def _scored(question: _Asked, answer: ArmAnswer) -> ScoredAnswer:
    query = question.query
    return ScoredAnswer(query.user, query.domain, query.task, query.options, question.truth, "", answer.answer, question.measure)


def _official(scored: Sequence[ScoredAnswer]) -> Mapping[str, float]:
    """Of the answers of one domain. Empty if it is none of LaMP's or has other labels, and with answers such as `nan`, at which LaMP's script stops."""
    task = TASKS.get(scored[0].domain)
    if task is None or (task in _LABELS and any(answer.truth not in _LABELS[task] for answer in scored)):
        return {}
    try:
        return official_metrics(task, [answer.final for answer in scored], [answer.truth for answer in scored])
    except NotMeasurable:
        return {}


def _cleaned(answer: ArmAnswer, options: Sequence[str]) -> ArmAnswer:
    """The first line with a visible text: without quotes around it, or with options the last one that it names (`The score is 4.`)."""
    lines = [line for line in visible(answer.answer).splitlines() if normalized(line)]
    first = lines[0].strip() if lines else ""
    if options:
        return answer if choose_option(answer.answer, options) else replace(answer, answer=_last_named(first, options) or first)
    unquoted = first[1:-1].strip() if len(first) > 2 and normalized(first) != normalized(first, keep_quotes=True) else first
    return replace(answer, answer=unquoted)


def _last_named(line: str, options: Sequence[str]) -> str | None:
    """The last option that stands in the line as words of its own; of options inside each other the longer one. Of `4/5` and `4 out of 5` it is 4."""
    longest_first = sorted(options, key=len, reverse=True)
    named = re.findall(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", _OUT_OF.sub("", line), re.IGNORECASE)
    return choose_option(named[-1], options) if named else None
