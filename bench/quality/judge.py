"""Judges the answers of all arms: metrics of each task, and differences between arms, paired by question, with intervals over users. No I/O."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple
from uuid import UUID

from bench.quality.answers import AnswerLog, ArmAnswer
from schemas.lamp_metrics import NotMeasurable, OfficialTask, official_metrics
from schemas.queries import Query
from schemas.sameness import normalized, visible
from schemas.scoring import METRIC, Interval, bootstrap, metric_domains, paired_bootstrap, score
from schemas.strategies import Strategy
from schemas.tasks import MOVIE_TAGS, STARS, choose_option
from traffic.datasets.steps import Question
from traffic.figures import ScoredAnswer, all_metrics
from traffic.observer import percentile
from traffic.predictions import TASKS

#: Seed of the bootstrap, independent of the run's seed.
BOOTSTRAP_SEED = 0
#: Suffix of an arm whose answers are cleaned: small base models write several lines, quotes around a title, and sentences around a label or a score.
CLEANED = " (cleaned)"
#: Every arm is compared with these, where they were asked.
REFERENCES = (str(Strategy.ZERO_SHOT), str(Strategy.RAG), Strategy.RAG + CLEANED, str(Strategy.RPO))
#: All domains together: the mean over domains of each user who has questions in all of them; if no user has, of each user over the user's own domains.
ALL_DOMAINS = "all"

#: The labels that LaMP's metrics know.
_LABELS = {OfficialTask.LAMP_2: MOVIE_TAGS, OfficialTask.LAMP_3: STARS}

#: The end of a scale after a score.
_OUT_OF = re.compile(r"(?<=\d)\s*(?:/|\bout of\b)\s*\d+")

ByUser = Mapping[str, float]


@dataclass(frozen=True)
class DomainScores:
    """One arm in one domain. Metrics have no interval. `official` are LaMP's (`retouch evaluate`), for its domains."""

    metric: str
    score: Interval  # mean over users
    users: int
    questions: int
    metrics: Mapping[str, float]
    official: Mapping[str, float]


@dataclass(frozen=True)
class ArmCost:
    """Means over the questions, of the base model and of the reflection model; latency in milliseconds, beside the other questions in flight.

    `overhead_p50_ms`: the latency without the calls of the models.
    """

    base_prompt_tokens: float
    base_completion_tokens: float
    reflect_prompt_tokens: float
    reflect_completion_tokens: float
    latency_p50_ms: float
    latency_p99_ms: float
    overhead_p50_ms: float


@dataclass(frozen=True)
class ArmFigures:
    domains: Mapping[str, DomainScores]  # by domain, and ALL_DOMAINS if there are several
    answered: int
    statuses: Mapping[str, int]
    answered_by: Mapping[str, int]  # simpler strategies that answered instead
    cost: ArmCost


@dataclass(frozen=True)
class Difference:
    """Mean score of `after` minus that of `before`, over the users and questions that both have."""

    after: str
    before: str
    domain: str
    interval: Interval
    users: int

    @property
    def verdict(self) -> str:
        return "better" if self.interval.low > 0 else "worse" if self.interval.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Judgement:
    arms: Mapping[str, ArmFigures]
    differences: Sequence[Difference]


def judge(log: AnswerLog, questions: Sequence[Question]) -> Judgement:
    """Arms without answers are left out."""
    by_id = _by_id(questions)
    answers = {arm: given for arm, given in log.by_arm.items() if given}
    for arm in [arm for arm in answers if arm in (Strategy.RAG, Strategy.ZERO_SHOT)]:
        cleaned = {id: _cleaned(answer, by_id[id].query.options) for id, answer in answers[arm].items()}
        if cleaned != answers[arm]:
            answers[arm + CLEANED] = cleaned
    scores = {arm: _scores(given, by_id) for arm, given in answers.items()}
    figures = {arm: _figures(given, by_id, scores[arm]) for arm, given in answers.items()}
    return Judgement(figures, _differences(scores, by_id))


def headline(figures: ArmFigures) -> DomainScores:
    """All domains together, or the only one."""
    return figures.domains.get(ALL_DOMAINS) or next(iter(figures.domains.values()))


class _Asked(NamedTuple):
    query: Query
    truth: str
    domain: str  # as `metric_domains` names it


def _by_id(questions: Sequence[Question]) -> dict[UUID, _Asked]:
    """The questions with a truth. No others are asked."""
    names = metric_domains((question.query.domain, question.query.task) for question in questions)
    found = {}
    for query, truth in ((question.query, question.truth) for question in questions if question.truth is not None):
        found[query.query_id] = _Asked(query, truth, names[query.domain, query.task])
    return found


#: Score of each question, by its id.
Scores = Mapping[UUID, float]


def _scores(answers: Mapping[UUID, ArmAnswer], by_id: Mapping[UUID, _Asked]) -> Scores:
    found = {}
    for id, answer in answers.items():
        query = by_id[id].query
        found[id] = score(query.task, answer.answer, by_id[id].truth, query.options)
    return found


def _figures(answers: Mapping[UUID, ArmAnswer], by_id: Mapping[UUID, _Asked], scores: Scores) -> ArmFigures:
    domains = {}
    for domain, ids in _by(answers, lambda id: by_id[id].domain).items():
        task = by_id[ids[0]].query.task
        scored = [_scored(by_id[id], answers[id]) for id in ids]
        by_user = _by_user({id: scores[id] for id in ids}, by_id)
        domains[domain] = DomainScores(METRIC[task], _mean(by_user), len(by_user), len(ids), all_metrics(scored, "final"), _official(scored))
    if len(domains) > 1 and (overall := _overall(scores, by_id)):
        domains[ALL_DOMAINS] = DomainScores("mean score", _mean(overall), len(overall), len(answers), {}, {})
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
    return ArmCost(
        base_prompt_tokens=fmean(answer.base.prompt_tokens for answer in answers),
        base_completion_tokens=fmean(answer.base.completion_tokens for answer in answers),
        reflect_prompt_tokens=fmean(answer.reflect.prompt_tokens for answer in answers),
        reflect_completion_tokens=fmean(answer.reflect.completion_tokens for answer in answers),
        latency_p50_ms=percentile(latencies, 0.5) or 0.0,
        latency_p99_ms=percentile(latencies, 0.99) or 0.0,
        overhead_p50_ms=percentile([answer.latency_ms - answer.model_ms for answer in answers], 0.5) or 0.0,
    )


def _differences(scores: Mapping[str, Scores], by_id: Mapping[UUID, _Asked]) -> list[Difference]:
    found = []
    for after in scores:
        for before in REFERENCES:
            if before not in scores or after.removesuffix(CLEANED) == before.removesuffix(CLEANED):
                continue
            common = scores[after].keys() & scores[before].keys()
            for domain, ids in _by(common, lambda id: by_id[id].domain).items():
                pair = [_by_user({id: scores[arm][id] for id in ids}, by_id) for arm in (before, after)]
                found.append(Difference(after, before, domain, paired_bootstrap(pair[0], pair[1], BOOTSTRAP_SEED), len(pair[0])))
            overall = [_overall({id: scores[arm][id] for id in common}, by_id) for arm in (before, after)]
            if len({by_id[id].domain for id in common}) > 1 and overall[0]:
                found.append(Difference(after, before, ALL_DOMAINS, paired_bootstrap(overall[0], overall[1], BOOTSTRAP_SEED), len(overall[0])))
    return found


def _overall(scores: Scores, by_id: Mapping[UUID, _Asked]) -> ByUser:
    """The score of each user over all domains (ALL_DOMAINS)."""
    parts = [_by_user({id: scores[id] for id in ids}, by_id) for ids in _by(scores, lambda id: by_id[id].domain).values()]
    everyone = [{*part} for part in parts]
    users = set.intersection(*everyone) or set.union(*everyone) if parts else set()
    return {user: fmean(part[user] for part in parts if user in part) for user in users}


def _by_user(scores: Scores, by_id: Mapping[UUID, _Asked]) -> ByUser:
    """The mean score of each user, by `tenant/user`."""
    return {user: fmean(scores[id] for id in ids) for user, ids in _by(scores, lambda id: by_id[id].query.key.decode()).items()}


def _by(ids: Sequence[UUID] | Mapping[UUID, object] | set[UUID], key: Callable[[UUID], str]) -> dict[str, list[UUID]]:
    groups: dict[str, list[UUID]] = defaultdict(list)
    for id in sorted(ids):
        groups[key(id)].append(id)
    return dict(sorted(groups.items()))


def _mean(by_user: ByUser) -> Interval:
    return bootstrap([by_user[user] for user in sorted(by_user)], fmean, BOOTSTRAP_SEED)


def _scored(question: _Asked, answer: ArmAnswer) -> ScoredAnswer:
    query = question.query
    return ScoredAnswer(query.user, query.domain, query.task, query.options, question.truth, "", answer.answer)


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
