"""`quality.json` and `quality.md`: the figures of a run. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.quality.judge import ALL_DOMAINS, CLEANED, OTHER, REFERENCES, ArmFigures, DomainScores, Judgement, headline
from bench.reporting import target_lines
from bench.targets import Bound, Target
from infra.settings.profiles import ProfileWriter
from schemas.scoring import Interval
from schemas.strategies import Strategy
from traffic.figures import ERRORS


def to_json(judgement: Judgement) -> dict[str, Any]:
    return {
        "arms": {arm: asdict(figures) for arm, figures in judgement.arms.items()},
        "differences": [asdict(difference) | {"verdict": difference.verdict} for difference in judgement.differences],
    }


#: Strategies that need one call of the base model. Not RPO, which calls the reflection model too, and not HYDRA, whose reranker and scorer compute for as long
#: as a model and are counted as neither: its latency without the base model is theirs.
ONE_CALL = (Strategy.ZERO_SHOT, Strategy.ZERO_SHOT_COT, Strategy.ICL, Strategy.RAG, Strategy.RAG_COT, Strategy.PAG, Strategy.PAG_COT)
#: The most that everything else may add to the call at p50, in milliseconds, with one question at a time.
OVERHEAD_MS = 60.0


def overhead_targets(judgement: Judgement, profiles: ProfileWriter) -> list[Target]:
    """Of answers that no simpler strategy gave, because those follow a call that failed. RPM has one call if no LLM finds the features of queries.

    An arm without such answers has no target.
    """
    one_call = (*ONE_CALL, Strategy.RPM) if profiles is ProfileWriter.TEMPLATE else ONE_CALL
    measured = {arm: judgement.arms[arm].cost.own_overhead_p50_ms for arm in one_call if arm in judgement.arms}
    return [Target(f"{arm}: latency without the model at p50, ms", Bound.BELOW, OVERHEAD_MS, ms) for arm, ms in measured.items() if ms is not None]


#: The orderings of the papers. `at least`: an ablation may be as good.
ORDERINGS = (
    (Strategy.RAG, Bound.ABOVE, Strategy.ZERO_SHOT),
    (Strategy.RPO, Bound.ABOVE, Strategy.RAG),
    (Strategy.RAG, Bound.ABOVE, "rag@random"),
    (Strategy.RPO, Bound.ABOVE, "rpo@random"),
    (Strategy.RPO, Bound.AT_LEAST, "rpo:sft"),
    (Strategy.RPO, Bound.AT_LEAST, "rpo:rl"),
    (Strategy.HYDRA, Bound.ABOVE, Strategy.RAG),
    (Strategy.RPM, Bound.ABOVE, "rpm:query"),
)
#: On a data set RPO is significantly above these.
BELOW_RPO = (Strategy.ZERO_SHOT, Strategy.RAG, Strategy.RAG + CLEANED)


def ordering_targets(judgement: Judgement) -> list[Target]:
    """The orderings of the papers that this run can check: by the mean, in all domains together. Their intervals are in the table.

    An ordering is not measured if one of its arms has answered fewer questions than the other.
    """
    asked = [(after, bound, before) for after, bound, before in ORDERINGS if after in judgement.arms and before in judgement.arms]
    return [Target(f"{after} minus {before}", bound, 0.0, _gain(judgement.arms[after], judgement.arms[before])) for after, bound, before in asked]


def significance_targets(judgement: Judgement) -> list[Target]:
    """For a data set: the lower ends of RPO's differences, as far as their arms were asked. Not measured as in `ordering_targets`."""
    asked = {before: judgement.difference(Strategy.RPO, before) for before in BELOW_RPO if {Strategy.RPO, before} <= judgement.arms.keys()}
    rpo = judgement.arms[Strategy.RPO].answered if asked else 0
    complete = {before: each if judgement.arms[before].answered == rpo else None for before, each in asked.items()}
    return [
        Target(f"{Strategy.RPO} minus {before}, lower end of the interval", Bound.ABOVE, 0.0, each.interval.low if each else None)
        for before, each in complete.items()
    ]


def _gain(after: ArmFigures, before: ArmFigures) -> float | None:
    return headline(after).score.mean - headline(before).score.mean if after.answered == before.answered else None


def markdown(title: str, judgement: Judgement, report: Mapping[str, Any]) -> str:
    return "\n".join(_lines(title, judgement, report)) + "\n"


def _lines(title: str, judgement: Judgement, report: Mapping[str, Any]) -> Iterator[str]:
    machine, counts = report["machine"], report["counts"]
    yield from [f"# Answers by strategy: {title}, {report['started_at'][:10]}", ""]
    yield f"{counts['questions']} questions of {counts['users']} held-out users, {counts['lessons']} lessons, {counts['interactions']} interactions."
    yield f"{machine['cores']} cores; {report['seconds']:.0f} s in this run. Brackets: 95 % intervals over users."
    phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report["phase_seconds"].items())
    yield f"Seconds by phase, in all runs of this folder: {phases}; together {sum(report['phase_seconds'].values()):.0f}."
    if counts["missing"]:
        left = ", ".join(f"{arm} {count}" for arm, count in counts["missing"].items())
        yield f"Not answered, of {counts['questions']} questions: {left}. The same command asks them, within --max-tokens if it is given."
    yield from _tables(judgement)
    yield from ["", "## Cost and fallbacks", "", *_cost_table(judgement.arms)]
    if report["targets"]:
        yield from ["", "## Targets", "", *(f"    {line}" for line in target_lines(report))]


def _tables(judgement: Judgement) -> Iterator[str]:
    """One table for each domain and metric, the score over all domains first."""
    domains = {domain: scores for figures in judgement.arms.values() for domain, scores in figures.domains.items()}
    for domain in sorted(domains, key=lambda name: (name != ALL_DOMAINS, name)):
        for metric in domains[domain].intervals:
            direction = ", lower is better" if metric in ERRORS else ""
            has_cost = domain == judgement.headline and metric == domains[domain].metric
            yield from ["", f"## {domain}: {metric}{direction}", "", *_metric_table(judgement, domain, metric, has_cost=has_cost)]
        if domain != ALL_DOMAINS:
            yield from ["", f"## {domain}: metrics of all answers together", "", *_whole_table(judgement.arms, domain)]


def _metric_table(judgement: Judgement, domain: str, metric: str, *, has_cost: bool) -> Iterator[str]:
    """Means over users, and differences to the reference arms."""
    own = {(each.after, each.before): _signed(each.interval) for each in judgement.differences if (each.domain, each.metric) == (domain, metric)}
    compared = {before for _, before in own if not before.endswith(OTHER)}
    references = [before for before in REFERENCES if before in compared] + sorted(compared - {*REFERENCES})
    has_other = any(before.endswith(OTHER) for _, before in own)
    last = [*(["minus the other run"] if has_other else []), *(["tokens", "p50, ms"] if has_cost else [])]
    yield from _heading(["arm", metric, *(f"minus {before}" for before in references), *last])
    for arm, figures in judgement.arms.items():
        if domain in figures.domains and metric in figures.domains[domain].intervals:
            interval, cost = figures.domains[domain].intervals[metric], figures.cost
            mean = f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
            other = [own.get((arm, arm + OTHER), "")] if has_other else []
            spent = [f"{cost.tokens:.0f}", f"{cost.latency_p50_ms:.0f}"] if has_cost else []
            yield _row([arm, mean, *(own.get((arm, before), "") for before in references), *other, *spent])


def _whole_table(arms: Mapping[str, ArmFigures], domain: str) -> Iterator[str]:
    """Metrics of all answers of a domain together; LaMP's official ones have the prefix `official`."""
    found = {arm: _whole(figures.domains[domain]) for arm, figures in arms.items() if domain in figures.domains}
    columns = list(dict.fromkeys(name for values in found.values() for name in values))
    yield from _heading(["arm", *columns])
    for arm, values in found.items():
        yield _row([arm, *(f"{values[name]:.3f}" if name in values else "" for name in columns)])


def _whole(scores: DomainScores) -> dict[str, float]:
    return {**scores.metrics, **{f"official {metric}": value for metric, value in scores.official.items()}}


def _cost_table(arms: Mapping[str, ArmFigures]) -> Iterator[str]:
    yield from _heading(
        [
            "arm",
            "base tokens in",
            "out",
            "reflection tokens in",
            "out",
            "p50, ms",
            "p99, ms",
            "without the models, p50, ms",
            "answered",
            "by a simpler strategy",
        ]
    )
    for arm, figures in arms.items():
        cost = figures.cost
        tokens = (cost.base_prompt_tokens, cost.base_completion_tokens, cost.reflect_prompt_tokens, cost.reflect_completion_tokens)
        simpler = ", ".join(f"{count} {strategy}" for strategy, count in figures.answered_by.items()) or "0"
        yield _row(
            [arm, *(f"{value:.0f}" for value in (*tokens, cost.latency_p50_ms, cost.latency_p99_ms, cost.overhead_p50_ms)), str(figures.answered), simpler]
        )


def _heading(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
