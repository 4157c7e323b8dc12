"""The gate's decision over an evaluation and what the probes found. Pure, with its reason in words (docs/rules.md, 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.gate import GateResult
from schemas.run_report import Comparison, Evaluation
from trainer.judge.evaluate import CANDIDATE, CHAMPION, ZERO_SHOT

AGAINST_CHAMPION = f"{CANDIDATE}_minus_{CHAMPION}"
AGAINST_ZERO_SHOT = f"{CANDIDATE}_minus_{ZERO_SHOT}"


def decide(evaluation: Evaluation, findings: Sequence[str] = (), slice_drop: float = 0.0, min_users: int = 1) -> GateResult:
    """Passed: better than the champion over all domains, worse in no domain and no slice, below the base answers in none, and no probe found anything.

    Rejected: any harm, be it that `findings` of the probes are there. Else inconclusive: no harm was found, and no gain either.
    Each word is about 95 % intervals over held-out users: better means the interval lies above 0, worse and below that it lies under 0, in domains and
    slices, where the champion is concerned, under -`slice_drop`. A domain or slice of fewer than `min_users` is told and not judged: one user's interval
    is a point.
    """
    gain = evaluation.overall.intervals[AGAINST_CHAMPION]
    shown = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {evaluation.overall.users} held-out users"
    if findings:
        return GateResult(outcome="rejected", reason=f"{'; '.join(findings)} (overall {shown})")
    if gain.high < 0:
        return GateResult(outcome="rejected", reason=f"significantly worse than the champion: {shown}")
    judged = list(_judged(evaluation, min_users))
    if worse := _under(judged, AGAINST_CHAMPION, -slice_drop):
        more = f" by more than {slice_drop:g}" if slice_drop else ""
        return GateResult(outcome="rejected", reason=f"significantly worse than the champion{more} in {worse} (overall {shown})")
    if below := _under(judged, AGAINST_ZERO_SHOT, 0.0):
        return GateResult(outcome="rejected", reason=f"significantly below the base answers in {below} (overall {shown})")
    if gain.low <= 0:
        return GateResult(outcome="inconclusive", reason=f"not significantly better than the champion: {shown}")
    return GateResult(outcome="passed", reason=f"significantly better than the champion: {shown}")


def _judged(evaluation: Evaluation, min_users: int) -> Iterator[tuple[str, Comparison]]:
    for name, found in (*evaluation.domains.items(), *evaluation.slices.items()):
        if found.users >= min_users:
            yield name, found


def _under(judged: Sequence[tuple[str, Comparison]], comparison: str, limit: float) -> str:
    return ", ".join(name for name, found in judged if found.intervals[comparison].high < limit)
