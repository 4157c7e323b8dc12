"""The results of a scenario's experiments, and the targets. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, quantiles
from typing import Any

from bench.promotion.experiment import ExperimentResult
from bench.promotion.scenarios import CanaryScenario
from bench.targets import Bound, Target
from schemas.promotion_view import VerdictOutcome

#: Maximum share of verdicts on equal versions, and minimum share of harmful verdicts, within the bounds, on harmful versions.
FALSE, FOUND = 0.05, 0.95
DECIDED = frozenset({VerdictOutcome.BETTER.value, VerdictOutcome.HARMFUL.value})


def summary(scenario: CanaryScenario, results: Sequence[ExperimentResult]) -> dict[str, Any]:
    """JSON values. `as_expected`: experiments with the expected result. `wrong`: experiments with another verdict than expected."""
    outcomes = Counter(result.outcome for result in results)
    as_expected = [result for result in results if result.outcome == scenario.expected]
    wrong = sum(result.outcome in DECIDED and result.outcome != scenario.expected for result in results)
    return {
        **asdict(scenario),
        "experiments": len(results),
        "outcomes": dict(outcomes),
        "causes": dict(Counter(f"{result.outcome} by {result.cause}" for result in results)),
        "found": _share(len(as_expected), len(results)),
        "wrong": _share(wrong, len(results)),
        "to_verdict": {name: _spread([getattr(result, name) for result in as_expected]) for name in ("scored", "answers", "shown", "users")},
        "scored_when_found": sorted(result.scored for result in as_expected),
        "variance_kept": round(fmean(result.variance_kept for result in results), 3),
    }


def targets(scenarios: Sequence[Mapping[str, Any]]) -> list[Target]:
    return list(_targets(scenarios))


def _targets(scenarios: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    for scenario in scenarios:
        if scenario["expected"] == VerdictOutcome.INCONCLUSIVE:
            yield Target(f"{scenario['title']}: promoted or rolled back, share", Bound.AT_MOST, FALSE, scenario["wrong"]["share"])
    for scenario in scenarios:
        if scenario["expected"] == VerdictOutcome.HARMFUL and not scenario["is_plain"]:
            yield Target(f"{scenario['title']}: rolled back within the bounds, share", Bound.AT_LEAST, FOUND, scenario["found"]["share"])


def line(scenario: Mapping[str, Any]) -> str:
    """One scenario as a line of text."""
    share = scenario["wrong"] if scenario["expected"] == VerdictOutcome.INCONCLUSIVE else scenario["found"]
    description = "with a verdict" if scenario["expected"] == VerdictOutcome.INCONCLUSIVE else scenario["expected"]
    text = f"{scenario['title']:<48} {description} {share['share']:7.2%} [{share['low']:.2%}, {share['high']:.2%}] of {scenario['experiments']}"
    if scenario["expected"] == VerdictOutcome.INCONCLUSIVE or not (scored := scenario["to_verdict"]["scored"]):
        return text
    shown, users = scenario["to_verdict"]["shown"], scenario["to_verdict"]["users"]
    until = f"median {scored['median']:,} scored answers of both groups (p90: {scored['p90']:,})"
    return f"{text}; {until}, {shown['median']:,} answers of the challenger for {users['median']:,} users"


def _share(count: int, of: int) -> dict[str, float]:
    """The share with Wilson's 95 % interval."""
    share, z = count / of, 1.96
    middle, reach = (share + z * z / 2 / of) / (1 + z * z / of), z * math.sqrt(share * (1 - share) / of + z * z / 4 / of**2) / (1 + z * z / of)
    return {"share": round(share, 5), "low": round(max(0.0, middle - reach), 5), "high": round(min(1.0, middle + reach), 5)}


def _spread(values: Sequence[int]) -> dict[str, int] | None:
    if len(values) < 2:
        return None
    cuts = quantiles(values, n=20, method="inclusive")
    return {"p5": round(cuts[0]), "median": round(cuts[9]), "p90": round(cuts[17]), "p95": round(cuts[18])}
