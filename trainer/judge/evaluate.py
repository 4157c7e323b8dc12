"""Evaluation: held-out users' own outcomes, answered again by each arm, compared user by user.

Arms: `zero_shot` is the base answer as it went out then; `champion` and `candidate` rewrite it greedily from the same history at the k
of serving, with serving's prompt and serving's fall-backs. All scores are oriented so that higher is better, and every difference has a
95 % interval by paired bootstrap over users.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from schemas.run_report import Comparison, Evaluation
from schemas.scoring import METRIC, Pair, bootstrap, metrics, paired_bootstrap, score
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.judge.behaviour import Row, behaviour
from trainer.learn.policy import Policy
from trainer.learn.rewards import answer_of
from trainer.learn.rollout import SamplingOptions, generate

ZERO_SHOT, CHAMPION, CANDIDATE = "zero_shot", "champion", "candidate"
#: (after, before) of every comparison that is reported.
COMPARISONS = ((CANDIDATE, CHAMPION), (CANDIDATE, ZERO_SHOT), (CHAMPION, ZERO_SHOT))
#: The bootstrap's own seed: intervals must not depend on the run's.
BOOTSTRAP_SEED = 0

#: arm -> one answer per case.
Answers = Mapping[str, Sequence[str]]
#: Names of the arms that a difference is taken of.
Pairs = Sequence[tuple[str, str]]
NO_TEXTS: Mapping[str, Sequence[str | None]] = {}
#: Slice -> places of its cases.
Places = Mapping[str, Sequence[int]]
NO_SLICES: Places = {}
#: What a completion answers, or None where it cannot be used.
Read = Callable[[str, QueryCase], str | None]


def choose(heldout: Sequence[QueryCase], limit: int) -> list[QueryCase]:
    """At most `limit` cases, spread evenly over users and domains, the latest of each first: a pure function of its input."""
    piles: dict[tuple[str, str], list[QueryCase]] = defaultdict(list)
    for case in sorted(heldout, key=lambda case: (case.query.asked_at, case.case_id)):
        piles[case.user, case.domain].append(case)
    # Users are taken by their first case's id, which is a hash: any limit cuts across users without favour.
    order = sorted(piles.values(), key=lambda pile: pile[0].case_id)
    chosen: list[QueryCase] = []
    while order and len(chosen) < limit:
        chosen += [pile.pop() for pile in order][: limit - len(chosen)]
        order = [pile for pile in order if pile]
    return sorted(chosen, key=lambda case: case.case_id)


@dataclass(frozen=True)
class Rewrites:
    """One answer per case. `texts` are the completions as they were written, None where the model was not asked."""

    answers: list[str]
    texts: list[str | None]
    fallen_back: float  # share of the cases with history where no usable answer was written, so the base answer went out


def rewrite(policy: Policy, cases: Sequence[QueryCase], prompter: Prompter, k: int, max_new_tokens: int, stop: threading.Event) -> Rewrites:
    """The answers serving would give with this policy at this k."""
    prompts = [prompter.text(case, case.items[:k]) if case.items else None for case in cases]
    return respond(policy, cases, [None if text is None else prompter.encode(text) for text in prompts], answer_of, max_new_tokens, stop)


def respond(
    policy: Policy, cases: Sequence[QueryCase], prompts: Sequence[list[int] | None], read: Read, max_new_tokens: int, stop: threading.Event
) -> Rewrites:
    """Greedy completions, read by `read`. A case without a prompt, or whose completion cannot be read, keeps its base answer."""
    asked = {index: prompt for index, prompt in enumerate(prompts) if prompt is not None}
    groups = generate(policy, list(asked.values()), 1, SamplingOptions(max_new_tokens), stop)
    texts: list[str | None] = [None] * len(cases)
    answers = [case.base_answer for case in cases]
    usable = 0
    for index, (completion,) in zip(asked, groups, strict=True):
        text = texts[index] = policy.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        answer = read(text, cases[index])
        if answer is not None:
            answers[index] = answer
            usable += 1
    with_history = sum(bool(case.items) for case in cases)
    return Rewrites(answers, texts, 1 - usable / with_history if with_history else 0.0)


def by_history(cases: Sequence[QueryCase], k: int) -> dict[str, list[int]]:
    """Slices by how much a user has done so far: fewer items than the `k` of serving, or enough. Who has none is answered by no version."""
    found = {"few_items": [place for place, case in enumerate(cases) if 0 < len(case.items) < k]}
    found |= {"many_items": [place for place, case in enumerate(cases) if len(case.items) >= k]}
    return {name: places for name, places in found.items() if places}


def compare(
    cases: Sequence[QueryCase],
    answers: Answers,
    fallen_back: Mapping[str, float],
    pairs: Pairs = COMPARISONS,
    texts: Mapping[str, Sequence[str | None]] = NO_TEXTS,
    slices: Places = NO_SLICES,
) -> Evaluation:
    """Score every arm's answers, and the differences of those (after, before) `pairs` that both answered; over all cases, by domain and by slice.

    `texts` are an arm's completions as they were written; without them its behaviour says nothing of reasoning. Raises ValueError without cases.
    """
    unseen: list[str | None] = [None] * len(cases)
    if not cases:
        raise ValueError("no held-out case to judge by")
    domains = _domains(cases)
    by_user = _scores(cases, answers, domains)
    made = [(after, before) for after, before in pairs if {after, before} <= answers.keys()]
    compared = {domain: _domain(places, cases, answers, by_user[domain], made) for domain, places in domains.items()}
    how = {arm: behaviour([Row(case, text, answer) for case, text, answer in zip(cases, texts.get(arm, unseen), answers[arm], strict=True)]) for arm in answers}
    within = {name: _within([cases[place] for place in places], _at(answers, places), made) for name, places in slices.items()}
    return Evaluation(compared, _overall(by_user, len(cases), made), dict(fallen_back), how, within)


def mean_score(cases: Sequence[QueryCase], answers: Sequence[str]) -> float:
    """One arm's overall score: domains alike, and users alike within a domain."""
    return fmean(fmean(_by_user(cases, answers, places).values()) for places in _domains(cases).values())


def _within(cases: Sequence[QueryCase], answers: Answers, pairs: Pairs) -> Comparison:
    return _overall(_scores(cases, answers, _domains(cases)), len(cases), pairs)


def _at(answers: Answers, places: Sequence[int]) -> dict[str, list[str]]:
    return {arm: [given[place] for place in places] for arm, given in answers.items()}


def _scores(cases: Sequence[QueryCase], answers: Answers, domains: Mapping[str, Sequence[int]]) -> dict[str, dict[str, dict[str, float]]]:
    """domain -> arm -> user -> mean score."""
    return {domain: {arm: _by_user(cases, given, places) for arm, given in answers.items()} for domain, places in domains.items()}


def _domains(cases: Sequence[QueryCase]) -> dict[str, list[int]]:
    """The places of each domain's cases. A task has metrics of its own, so a domain with several is several, named `domain/task`."""
    kinds = {(case.domain, case.task) for case in cases}
    tasks = Counter(domain for domain, _ in kinds)
    names = {(domain, task): domain if tasks[domain] == 1 else f"{domain}/{task}" for domain, task in kinds}
    places: dict[str, list[int]] = {name: [] for name in sorted(names.values())}
    for index, case in enumerate(cases):
        places[names[case.domain, case.task]].append(index)
    return places


def _by_user(cases: Sequence[QueryCase], answers: Sequence[str], places: Iterable[int]) -> dict[str, float]:
    scores: dict[str, list[float]] = defaultdict(list)
    for case, answer in ((cases[index], answers[index]) for index in places):
        scores[case.user].append(score(case.task, answer, case.truth, case.query.options))
    return {user: fmean(values) for user, values in scores.items()}


def _domain(places: Sequence[int], cases: Sequence[QueryCase], answers: Answers, by_user: Mapping[str, Mapping[str, float]], pairs: Pairs) -> Comparison:
    task = cases[places[0]].task
    measured = {arm: metrics(task, (Pair(given[i], cases[i].truth, cases[i].query.options) for i in places)) for arm, given in answers.items()}
    users = next(iter(by_user.values()))
    intervals = {f"{after}_minus_{before}": paired_bootstrap(by_user[before], by_user[after], BOOTSTRAP_SEED) for after, before in pairs}
    return Comparison(METRIC[task], len(users), len(places), {arm: fmean(scores.values()) for arm, scores in by_user.items()}, measured, intervals)


def _overall(by_user: Mapping[str, Mapping[str, Mapping[str, float]]], cases: int, pairs: Pairs) -> Comparison:
    """The mean over domains, each domain the mean over its users; users are resampled whole, with all their domains."""
    arms = next(iter(by_user.values()))
    users = sorted({user for scores in by_user.values() for user in next(iter(scores.values()))})
    intervals = {}
    for after, before in pairs:
        differences = [{domain: scores[after][user] - scores[before][user] for domain, scores in by_user.items() if user in scores[after]} for user in users]
        intervals[f"{after}_minus_{before}"] = bootstrap(differences, _mean_over_domains, BOOTSTRAP_SEED)
    scores = {arm: fmean(fmean(domain[arm].values()) for domain in by_user.values()) for arm in arms}
    return Comparison("mean over domains", len(users), cases, scores, {}, intervals)


def _mean_over_domains(differences: Sequence[Mapping[str, float]]) -> float:
    by_domain: dict[str, list[float]] = defaultdict(list)
    for of_user in differences:
        for domain, difference in of_user.items():
            by_domain[domain].append(difference)
    return fmean(map(fmean, by_domain.values()))
