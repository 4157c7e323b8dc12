"""Evaluation: each arm answers the questions of held-out users' outcomes; the answers are compared user by user.

Arms: `zero_shot` is the stored base answer; `champion` and `candidate` rewrite it greedily from the same history, with serving's k, prompt and fallbacks.
Higher scores are better. Every difference has a 95 % interval by paired bootstrap over users.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from infra.errors import CannotContinue
from infra.settings.rewrite_limits import RewriteLimits
from schemas.domains import Domains
from schemas.measures import MeasureFailed, metrics
from schemas.run_report import Comparison, Evaluation
from schemas.scoring import Pair, metric_domains
from schemas.user_means import ByDomain, by_user, difference, difference_over_domains, score_over_domains, users_of
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.judge.behaviour import AnswerRow, behaviour
from trainer.judge.completion import Completer
from trainer.judge.gate import CANDIDATE, CHAMPION, ZERO_SHOT
from trainer.learn.rewards import answer_of

#: (after, before) of every reported comparison.
COMPARISONS = ((CANDIDATE, CHAMPION), (CANDIDATE, ZERO_SHOT), (CHAMPION, ZERO_SHOT))

#: By arm, one answer per case.
Answers = Mapping[str, Sequence[str]]
#: Pairs of arms (after, before) to compare.
Pairs = Sequence[tuple[str, str]]
NO_TEXTS: Mapping[str, Sequence[str | None]] = {}
#: By slice, the indices of its cases.
Slices = Mapping[str, Sequence[int]]
NO_SLICES: Slices = {}
#: Extracts the answer from a completion; None if it is unusable.
ReadAnswer = Callable[[str, QueryCase], str | None]


def choose_cases(heldout: Sequence[QueryCase], limit: int) -> list[QueryCase]:
    """At most `limit` cases, spread evenly over users and domains, the latest of each first. A pure function of its input."""
    groups: dict[tuple[str, str], list[QueryCase]] = defaultdict(list)
    for case in sorted(heldout, key=lambda case: (case.query.asked_at, case.case_id)):
        groups[case.user, case.domain].append(case)
    # Ordered by the id of the first case, which is a hash: a limit selects users at random.
    order = sorted(groups.values(), key=lambda group: group[0].case_id)
    chosen: list[QueryCase] = []
    while order and len(chosen) < limit:
        chosen += [group.pop() for group in order][: limit - len(chosen)]
        order = [group for group in order if group]
    return sorted(chosen, key=lambda case: case.case_id)


@dataclass(frozen=True)
class Rewrites:
    """One answer per case. `texts` are the completions, None for cases without a prompt."""

    answers: list[str]
    texts: list[str | None]
    fallen_back: float  # share of the cases with history whose completion was unusable, so that the base answer went out


@dataclass(frozen=True)
class AskedCases:
    """Cases with their prompts; None for a case that keeps its base answer."""

    cases: Sequence[QueryCase]
    prompts: Sequence[list[int] | None]

    @classmethod
    def as_served(cls, cases: Sequence[QueryCase], prompter: Prompter, k: int) -> Self:
        """The prompts of serving with this k, or that of the case's domain."""
        k_of = prompter.form.domains.k
        prompts = [prompter.text(case, case.items[: k_of(case.domain, k)]) if case.items else None for case in cases]
        return cls(cases, [None if text is None else prompter.chat.ids(text) for text in prompts])


def respond(completer: Completer, asked: Sequence[AskedCases], limits: RewriteLimits, read: ReadAnswer = answer_of) -> list[Rewrites]:
    """Greedy completions, parsed by `read`, of all sets of cases at once. A case without a prompt or with an unusable completion keeps its base answer."""
    prompted = [(prompt, limits.rewrite(case.domain)) for each in asked for case, prompt in zip(each.cases, each.prompts, strict=True) if prompt is not None]
    completions = iter(completer.complete([prompt for prompt, _ in prompted], [limit for _, limit in prompted]) if prompted else [])
    decode = completer.tokenizer.decode
    rewrites = []
    for each in asked:
        texts = [None if prompt is None else str(decode(next(completions), skip_special_tokens=True)) for prompt in each.prompts]
        answers = [None if text is None else read(text, case) for text, case in zip(texts, each.cases, strict=True)]
        with_history = sum(bool(case.items) for case in each.cases)
        fallen_back = 1 - sum(answer is not None for answer in answers) / with_history if with_history else 0.0
        kept = [case.base_answer if answer is None else answer for answer, case in zip(answers, each.cases, strict=True)]
        rewrites.append(Rewrites(kept, texts, fallen_back))
    return rewrites


def slices_by_history(cases: Sequence[QueryCase], k: int, entries: Domains) -> dict[str, list[int]]:
    """Slices by length of the history: fewer items than serving's `k`, or that of the case's domain, or enough.

    Cases without history are left out: no version answers them.
    """
    few = [index for index, case in enumerate(cases) if 0 < len(case.items) < entries.k(case.domain, k)]
    many = [index for index, case in enumerate(cases) if len(case.items) >= entries.k(case.domain, k)]
    return {name: indices for name, indices in (("few_items", few), ("many_items", many)) if indices}


def compare_arms(
    cases: Sequence[QueryCase],
    answers: Answers,
    fallen_back: Mapping[str, float],
    pairs: Pairs = COMPARISONS,
    texts: Mapping[str, Sequence[str | None]] = NO_TEXTS,
    slices: Slices = NO_SLICES,
    *,
    entries: Domains,
) -> Evaluation:
    """Scores of every arm, and differences of the (after, before) `pairs` that are both in `answers`; over all cases, by domain and by slice.

    `texts` are an arm's completions; without them its behaviour has no figures of the reasoning. `entries` name the metric of each domain.
    Raises ValueError without cases, CannotContinue if a domain's own measure fails.
    """
    no_texts: list[str | None] = [None] * len(cases)
    if not cases:
        raise ValueError("no held-out case to judge by")
    domains = _domains(cases)
    by_arm = _scores(cases, answers, domains, entries)
    compared_pairs = [(after, before) for after, before in pairs if {after, before} <= answers.keys()]
    compared = {domain: _domain(indices, cases, answers, domain, by_arm, compared_pairs, entries) for domain, indices in domains.items()}
    behaviours = {
        arm: behaviour([AnswerRow(case, text, answer) for case, text, answer in zip(cases, texts.get(arm, no_texts), answers[arm], strict=True)])
        for arm in answers
    }
    within = {name: _within([cases[index] for index in indices], _at(answers, indices), compared_pairs, entries) for name, indices in slices.items()}
    return Evaluation(compared, _overall(by_arm, len(cases), compared_pairs), dict(fallen_back), behaviours, within)


def mean_score(cases: Sequence[QueryCase], answers: Sequence[str], entries: Domains) -> float:
    """One arm's overall score (`schemas.user_means`)."""
    return score_over_domains({domain: _by_user(cases, answers, indices, entries) for domain, indices in _domains(cases).items()})


def _within(cases: Sequence[QueryCase], answers: Answers, pairs: Pairs, entries: Domains) -> Comparison:
    return _overall(_scores(cases, answers, _domains(cases), entries), len(cases), pairs)


def _at(answers: Answers, indices: Sequence[int]) -> dict[str, list[str]]:
    return {arm: [of_arm[index] for index in indices] for arm, of_arm in answers.items()}


def _scores(cases: Sequence[QueryCase], answers: Answers, domains: Mapping[str, Sequence[int]], entries: Domains) -> dict[str, ByDomain]:
    """Mean scores by arm, domain and user."""
    return {arm: {domain: _by_user(cases, of_arm, indices, entries) for domain, indices in domains.items()} for arm, of_arm in answers.items()}


def _domains(cases: Sequence[QueryCase]) -> dict[str, list[int]]:
    """Indices of each domain's cases, by its name as `metric_domains` gives it."""
    names = metric_domains((case.domain, case.task) for case in cases)
    indices: dict[str, list[int]] = {name: [] for name in sorted(names.values())}
    for index, case in enumerate(cases):
        indices[names[case.domain, case.task]].append(index)
    return indices


def _by_user(cases: Sequence[QueryCase], answers: Sequence[str], indices: Iterable[int], entries: Domains) -> dict[str, float]:
    return by_user((cases[index].user, _score(cases[index], answers[index], entries)) for index in indices)


def _score(case: QueryCase, answer: str, entries: Domains) -> float:
    try:
        return entries.metric(case.domain, case.task).score(answer, case.truth, case.query.options)
    except MeasureFailed as error:
        raise CannotContinue(f"the answer to {case.case_id} of {case.domain} has no score: {error}") from None


def _domain(
    indices: Sequence[int], cases: Sequence[QueryCase], answers: Answers, domain: str, by_arm: Mapping[str, ByDomain], pairs: Pairs, entries: Domains
) -> Comparison:
    task = cases[indices[0]].task
    measure = entries.metric(cases[indices[0]].domain, task)
    measured = {arm: metrics(measure, task, (Pair(of_arm[i], cases[i].truth, cases[i].query.options) for i in indices)) for arm, of_arm in answers.items()}
    own = {arm: domains[domain] for arm, domains in by_arm.items()}
    intervals = {f"{after}_minus_{before}": difference(own[before], own[after]) for after, before in pairs}
    scores = {arm: score_over_domains({domain: users}) for arm, users in own.items()}
    return Comparison(measure.name, len(next(iter(own.values()))), len(indices), scores, measured, intervals)


def _overall(by_arm: Mapping[str, ByDomain], cases: int, pairs: Pairs) -> Comparison:
    intervals = {f"{after}_minus_{before}": difference_over_domains(by_arm[before], by_arm[after]) for after, before in pairs}
    scores = {arm: score_over_domains(domains) for arm, domains in by_arm.items()}
    return Comparison("mean over domains", len(users_of(next(iter(by_arm.values())))), cases, scores, {}, intervals)
