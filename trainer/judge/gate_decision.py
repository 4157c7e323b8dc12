"""The gate's decision, from an evaluation and the findings of the probes. Pure (docs/rules.md, 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.gate import GateResult
from schemas.run_report import Comparison, Evaluation
from trainer.judge.evaluate import CANDIDATE, CHAMPION, ZERO_SHOT

AGAINST_CHAMPION = f"{CANDIDATE}_minus_{CHAMPION}"
AGAINST_ZERO_SHOT = f"{CANDIDATE}_minus_{ZERO_SHOT}"


def decide(evaluation: Evaluation, findings: Sequence[str] = (), slice_drop: float = 0.0, min_users: int = 1) -> GateResult:
    """Passed: better than the champion over all domains, worse in no domain and no slice, below the base answers in none, and no probe found anything.
    Rejected: any harm, or any of the probes' `findings`. Otherwise inconclusive: neither harm nor gain.

    All comparisons use 95 % intervals over held-out users. Better: the interval lies above 0. Worse and below: it lies under 0; in domains and slices, worse
    than the champion means under -`slice_drop`. Domains and slices with fewer than `min_users` users do not count, because one user's interval is a point.
    """
    gain = evaluation.overall.intervals[AGAINST_CHAMPION]
    figures = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {evaluation.overall.users} held-out users"
    if findings:
        return GateResult(outcome="rejected", reason=f"{'; '.join(findings)} (overall {figures})")
    if gain.high < 0:
        return GateResult(outcome="rejected", reason=f"significantly worse than the champion: {figures}")
    judged = list(_with_enough_users(evaluation, min_users))
    if worse := _under(judged, AGAINST_CHAMPION, -slice_drop):
        more = f" by more than {slice_drop:g}" if slice_drop else ""
        return GateResult(outcome="rejected", reason=f"significantly worse than the champion{more} in {worse} (overall {figures})")
    if below := _under(judged, AGAINST_ZERO_SHOT, 0.0):
        return GateResult(outcome="rejected", reason=f"significantly below the base answers in {below} (overall {figures})")
    if gain.low <= 0:
        return GateResult(outcome="inconclusive", reason=f"not significantly better than the champion: {figures}")
    return GateResult(outcome="passed", reason=f"significantly better than the champion: {figures}")


def _with_enough_users(evaluation: Evaluation, min_users: int) -> Iterator[tuple[str, Comparison]]:
    for name, comparison in (*evaluation.domains.items(), *evaluation.slices.items()):
        if comparison.users >= min_users:
            yield name, comparison


def _under(judged: Sequence[tuple[str, Comparison]], difference: str, limit: float) -> str:
    return ", ".join(name for name, comparison in judged if comparison.intervals[difference].high < limit)
