"""Evaluates the arms' answers: scores, slices, differences with intervals, the share of the way to the ceiling, and the targets. No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean

from bench.targets import Bound, Target
from bench.train import arms as names
from bench.train import report
from bench.train.arm_runner import ArmResult
from bench.train.examples import Examples
from bench.train.plan import TrainPlan
from schemas.scoring import Interval, Pair, bootstrap, metrics
from schemas.tasks import Task
from schemas.user_means import BOOTSTRAP_SEED, by_metric, difference
from traffic.ceilings import best_rule
from trainer.data.query_cases import QueryCase
from trainer.judge.evaluate import Pairs, compare_arms, mean_score

BLIND, RULE, IDEAL = "blind", "rule", "ideal"
#: Items in a domain's past that count as few and as many.
FEW, MANY = 6, 20
#: The targets need these names.
NEEDED = frozenset({names.RL_MIXED, names.RAG_BASE, names.SFT_TOP1})
#: Minimum share of the way from the user-blind answer to the best rule at k, by minimum minutes of training.
WAY = ((15.0, 0.8), (0.0, 0.6))
RL_ARMS = (names.RL_MIXED, names.RL_PROGRESSIVE, names.RL_FIXED)

Answers = Mapping[str, Sequence[str]]


def judge(data: Examples, results: Mapping[str, ArmResult], plan: TrainPlan, pairs: Callable[[report.Measurement], Pairs] | None = None) -> report.Measurement:
    """The whole measurement. `pairs` chooses the answerers to compare, from a measurement without differences; by default `usual_pairs`."""
    answers = {names.ZERO_SHOT: [case.base_answer for case in data.heldout], **_floor_and_ceilings(data, plan)}
    answers |= {f"{arm}@{k}": rewrites.answers for arm in sorted(results, key=_sort_key) for k, rewrites in results[arm].held_out.items()}
    positions = slices(data)
    plain = _compared(data, answers, results, positions)
    arms = {name: _arm(results[name]) for name in sorted(results, key=_sort_key)}
    users = {name: len({data.heldout[position].user for position in within}) for name, within in positions.items()}
    measurement = report.Measurement(data.title, data.counts, users, plain, arms, [])
    all_pairs = list((pairs or usual_pairs)(measurement))
    differences = list(_differences(data, answers, positions, [pair for pair in all_pairs if {*pair} <= answers.keys()]))
    return report.Measurement(data.title, data.counts, users, plain, arms, differences)


def usual_pairs(measurement: report.Measurement) -> list[tuple[str, str]]:
    """Every arm against zero-shot; RL against RAG and SFT top-1, each at its best k, and against the controls; the curriculum against a fixed k."""
    best = {arm: f"{arm}@{result.best_k}" for arm, result in measurement.arms.items()}
    pairs = [(answerer, names.ZERO_SHOT) for answerer in best.values()]
    against = [
        measurement.best_on_test(names.RAG_BASE),
        measurement.best_on_test(names.RAG_REFLECTOR),
        measurement.best_on_test(names.SFT_TOP1),
        best.get(names.SFT_MIXED),
        best.get(names.SFT_LONGER),
    ]
    pairs += [(best[arm], other) for arm in (*RL_ARMS, names.SFT_MIXED) if arm in best for other in against if other not in (None, best[arm])]
    progressive, fixed = best.get(names.RL_PROGRESSIVE), best.get(names.RL_FIXED)
    return [*pairs, (progressive, fixed)] if progressive and fixed else pairs


def slices(data: Examples) -> dict[str, list[int]]:
    """Positions of held-out cases by slice of users. The length of a past is counted within the domain."""
    by_slice: dict[str, list[int]] = {"few_items": [], "many_items": [], "drifted": [], "newcomers": []}
    for position, case in enumerate(data.heldout):
        if (world_truth := data.world_truths.get(case.case_id)) is None:
            continue
        past = sum(exchange.domain == case.domain for exchange in world_truth.past.values())
        belongs = {"few_items": past <= FEW, "many_items": past >= MANY, "drifted": world_truth.drifted, "newcomers": world_truth.newcomer}
        for name, does in belongs.items():
            if does:
                by_slice[name].append(position)
    return {name: within for name, within in by_slice.items() if within}


def _floor_and_ceilings(data: Examples, plan: TrainPlan) -> dict[str, list[str]]:
    """The floor and the ceilings as answerers; empty for real data."""
    truths = [data.world_truths.get(case.case_id) for case in data.heldout]
    if None in truths:
        return {}
    pairs = [(truth, case) for truth, case in zip(truths, data.heldout, strict=True) if truth is not None]
    answers = {BLIND: [truth.question.generic for truth, _ in pairs], IDEAL: [truth.question.ideal for truth, _ in pairs]}
    for k in plan.ks:
        answers[f"{RULE}@{k}"] = [best_rule(truth.question, [truth.past[str(item.interaction_id)] for item in case.items[:k]]) for truth, case in pairs]
    return answers


def _compared(data: Examples, answers: Answers, results: Mapping[str, ArmResult], positions: Mapping[str, Sequence[int]]) -> dict[str, report.AnswererScores]:
    texts = {f"{arm}@{k}": rewrites.texts for arm, result in results.items() for k, rewrites in result.held_out.items()}
    whole = compare_arms(data.heldout, answers, {}, [], texts, entries=data.domains)
    within = {
        name: {answerer: mean_score(*_at(data.heldout, texts, position), data.domains) for answerer, texts in answers.items()}
        for name, position in positions.items()
    }
    ways = dict(_ways(data, answers))
    scores_by_answerer = {}
    for name in answers:
        arm, _, shown = name.partition("@")
        result = results.get(arm)
        scores_by_answerer[name] = report.AnswererScores(
            overall=whole.overall.scores[name],
            domains={domain: by.scores[name] for domain, by in whole.domains.items()},
            metrics={domain: by.metrics[name] for domain, by in whole.domains.items()},
            slices={part: scores[name] for part, scores in within.items()},
            fallen_back=result.held_out[int(shown)].fallen_back if result else None,
            dev=result.dev[int(shown)] if result else None,
            way=ways.get(name),
            behaviour=whole.behaviour[name],
        )
    return scores_by_answerer


def _at(cases: Sequence[QueryCase], answers: Sequence[str], positions: Sequence[int]) -> tuple[list[QueryCase], list[str]]:
    return [cases[position] for position in positions], [answers[position] for position in positions]


def _sort_key(arm: str) -> int:
    """Sort key: arms in the order of their titles, then those without a title."""
    return [*names.TITLES].index(arm) if arm in names.TITLES else len(names.TITLES)


def _arm(result: ArmResult) -> report.ArmReport:
    best_k = max(result.dev, key=lambda k: (round(result.dev[k], 3), -k))
    return report.ArmReport(names.TITLES.get(result.arm, result.arm), best_k, result.sft_steps, result.sft_losses, result.steps, result.curve, result.costs)


def _differences(data: Examples, answers: Answers, positions: Mapping[str, Sequence[int]], pairs: Pairs) -> Iterator[report.ScoreDifference]:
    compared = {name: answers[name] for pair in pairs for name in pair}
    whole = compare_arms(data.heldout, compared, {}, pairs, slices=positions, entries=data.domains)
    for after, before in pairs:
        key = f"{after}_minus_{before}"
        yield report.ScoreDifference(
            after,
            before,
            whole.overall.intervals[key],
            {domain: by.intervals[key] for domain, by in whole.domains.items()},
            {name: by.intervals[key] for name, by in whole.slices.items()},
            _rouge_differences(data.heldout, compared[after], compared[before]) if not data.world_truths else {},
        )


def _rouge_differences(cases: Sequence[QueryCase], after: Sequence[str], before: Sequence[str]) -> dict[str, Interval]:
    """Differences in ROUGE over authors: each author counts with the mean of their answers to free text. Empty if ROUGE applies to none."""
    texts = [position for position, case in enumerate(cases) if case.task is Task.TEXT]
    rows = [[(cases[at].user, metrics(Task.TEXT, [Pair(answers[at], cases[at].truth)])) for at in texts] for answers in (before, after)]
    sides = [by_metric(row) for row in rows]
    return {name: difference(sides[0][name], sides[1][name]) for name in ("rouge_1", "rouge_l") if name in sides[0]}


def _ways(data: Examples, answers: Answers) -> Iterator[tuple[str, Interval]]:
    """(score - blind) / (rule - blind) for every arm and k, with a bootstrap over users."""
    for name, texts in answers.items():
        arm, _, shown = name.partition("@")
        if shown and arm != RULE and f"{RULE}@{shown}" in answers:
            rows = _scores_by_user(data, (texts, answers[BLIND], answers[f"{RULE}@{shown}"]))
            yield name, bootstrap(rows, _way, BOOTSTRAP_SEED, 500)


def _scores_by_user(data: Examples, answerers: Sequence[Sequence[str]]) -> list[dict[str, tuple[float, ...]]]:
    """Per user and domain: the mean score of each answerer."""
    by_user: dict[str, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for position, case in enumerate(data.heldout):
        score = data.domains.metric(case.domain, case.task).score
        by_user[case.user][case.domain].append(tuple(score(texts[position], case.truth, case.query.options) for texts in answerers))
    return [{domain: tuple(map(fmean, zip(*rows, strict=True))) for domain, rows in domains.items()} for _, domains in sorted(by_user.items())]


def _way(rows: Sequence[Mapping[str, tuple[float, ...]]]) -> float:
    by_domain: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        for domain, scores in row.items():
            by_domain[domain].append(scores)
    reached, blind, rule = (fmean(fmean(scores[position] for scores in of) for of in by_domain.values()) for position in range(3))
    return (reached - blind) / (rule - blind) if rule > blind else 0.0


def targets(measurement: report.Measurement, plan: TrainPlan, arm: str = names.RL_MIXED) -> list[Target]:
    """The targets of one arm with SFT and RL. A difference is measured by the lower end of its interval."""
    return list(_targets(measurement, plan, arm))


def _targets(measurement: report.Measurement, plan: TrainPlan, arm: str) -> Iterator[Target]:
    answerer = measurement.best(arm)
    rivals = {
        "zero-shot": names.ZERO_SHOT,
        "RAG by the base at its best k on the test": measurement.best_on_test(names.RAG_BASE),
        "SFT top-1 at its best k on the test": measurement.best_on_test(names.SFT_TOP1),
    }
    title = names.TITLES[arm]
    for name, rival in rivals.items():
        difference = measurement.difference(answerer, rival) if answerer and rival else None
        yield Target(f"{title} over {name}, lower end of the interval", Bound.ABOVE, 0.0, difference.overall.low if difference else None)
    way = measurement.answerers[answerer].way if answerer else None
    due = next(share for minutes, share in WAY if plan.minutes >= minutes)
    yield Target(f"{title}: share of the way from user-blind to the best rule at its k", Bound.AT_LEAST, due, way.mean if way else None)
    costs = [measurement.arms[name].costs.get(stage) for name, stage in ((names.SFT_MIXED, "sft"), (arm, "rl")) if name in measurement.arms]
    seconds = sum(cost.seconds for cost in costs if cost) if len(costs) == 2 and all(costs) else None
    yield Target(f"{title}: seconds of SFT and RL, within the planned minutes", Bound.AT_MOST, 60 * plan.minutes, seconds)
