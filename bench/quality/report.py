"""`quality.json` and `quality.md`: the figures of a run. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.quality.judge import ALL_DOMAINS, ArmFigures, Difference, Judgement, headline
from bench.reporting import target_lines
from bench.targets import Bound, Target
from schemas.scoring import Interval
from schemas.strategies import Strategy


def to_json(judgement: Judgement) -> dict[str, Any]:
    return {
        "arms": {arm: asdict(figures) for arm, figures in judgement.arms.items()},
        "differences": [asdict(difference) | {"verdict": difference.verdict} for difference in judgement.differences],
    }


#: Strategies with one call of a model, and the most that everything else may add to it at p50, in milliseconds, with one question at a time.
ONE_CALL = (Strategy.ZERO_SHOT, Strategy.ICL, Strategy.RAG, Strategy.PAG)
OVERHEAD_MS = 60.0


def overhead_targets(judgement: Judgement) -> list[Target]:
    return [
        Target(f"{arm}: latency without the model at p50, ms", Bound.BELOW, OVERHEAD_MS, judgement.arms[arm].cost.overhead_p50_ms)
        for arm in ONE_CALL
        if arm in judgement.arms
    ]


def ordering_targets(judgement: Judgement) -> list[Target]:
    """The orderings of the papers that this run can check: by the mean, in all domains together. Their intervals are in the table.

    An ordering is not measured if one of its arms has answered fewer questions than the other.
    """
    wanted = [
        (Strategy.RAG, Strategy.ZERO_SHOT),
        (Strategy.RPO, Strategy.RAG),
        (Strategy.RAG, "rag@random"),
        (Strategy.RPO, "rpo@random"),
        (Strategy.RPO, "rpo:sft"),
        (Strategy.RPO, "rpo:rl"),
        (Strategy.HYDRA, Strategy.RAG),
        (Strategy.RPM, "rpm:query"),
    ]
    asked = [(a, b) for a, b in wanted if a in judgement.arms and b in judgement.arms]
    return [Target(f"{a} minus {b}", Bound.AT_LEAST, 0.0, _gain(judgement.arms[a], judgement.arms[b])) for a, b in asked]


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
    yield from ["", *_score_table(judgement.arms)]
    for reference in dict.fromkeys(difference.before for difference in judgement.differences):
        yield from ["", f"## Minus {reference}", "", *_difference_table([each for each in judgement.differences if each.before == reference])]
    yield from ["", "## Metrics of the tasks", "", *_metric_table(judgement.arms)]
    yield from ["", "## Cost and fallbacks", "", *_cost_table(judgement.arms)]
    if report["targets"]:
        yield from ["", "## Targets", "", *(f"    {line}" for line in target_lines(report))]


def _score_table(arms: Mapping[str, ArmFigures]) -> Iterator[str]:
    domains = _domains(arms)
    yield _row(["arm", *domains])
    yield _row(["---"] * (1 + len(domains)))
    for arm, figures in arms.items():
        yield _row([arm, *(_scored(figures, domain) for domain in domains)])


def _scored(figures: ArmFigures, domain: str) -> str:
    if domain not in figures.domains:
        return ""
    interval = figures.domains[domain].score
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _difference_table(differences: Sequence[Difference]) -> Iterator[str]:
    domains = _ordered({difference.domain for difference in differences})
    yield _row(["arm", *domains])
    yield _row(["---"] * (1 + len(domains)))
    for arm in dict.fromkeys(difference.after for difference in differences):
        own = {difference.domain: difference for difference in differences if difference.after == arm}
        yield _row([arm, *(_signed(own[domain].interval) if domain in own else "" for domain in domains)])


def _metric_table(arms: Mapping[str, ArmFigures]) -> Iterator[str]:
    metrics = {arm: _metrics(figures) for arm, figures in arms.items()}
    columns = list(dict.fromkeys(name for found in metrics.values() for name in found))
    yield _row(["arm", *columns])
    yield _row(["---"] * (1 + len(columns)))
    for arm, found in metrics.items():
        yield _row([arm, *(f"{found[name]:.3f}" if name in found else "" for name in columns)])


def _metrics(figures: ArmFigures) -> dict[str, float]:
    """By domain and metric; LaMP's official ones have the prefix `official`."""
    found: dict[str, float] = {}
    for domain, scores in figures.domains.items():
        found |= {f"{domain} {metric}": value for metric, value in scores.metrics.items()}
        found |= {f"{domain} official {metric}": value for metric, value in scores.official.items()}
    return found


def _cost_table(arms: Mapping[str, ArmFigures]) -> Iterator[str]:
    yield _row(
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
    yield _row(["---"] * 10)
    for arm, figures in arms.items():
        cost = figures.cost
        tokens = (cost.base_prompt_tokens, cost.base_completion_tokens, cost.reflect_prompt_tokens, cost.reflect_completion_tokens)
        simpler = ", ".join(f"{count} {strategy}" for strategy, count in figures.answered_by.items()) or "0"
        yield _row(
            [arm, *(f"{value:.0f}" for value in (*tokens, cost.latency_p50_ms, cost.latency_p99_ms, cost.overhead_p50_ms)), str(figures.answered), simpler]
        )


def _domains(arms: Mapping[str, ArmFigures]) -> list[str]:
    return _ordered({domain for figures in arms.values() for domain in figures.domains})


def _ordered(domains: set[str]) -> list[str]:
    return [*sorted(domains - {ALL_DOMAINS}), *({ALL_DOMAINS} & domains)]


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
