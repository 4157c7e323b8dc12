"""Promotion: whether a candidate becomes champion. A pure decision over an evaluation, with its reason in words (DESIGN rule 7)."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.evaluate import CANDIDATE, CHAMPION, ZERO_SHOT, Evaluation

AGAINST_CHAMPION = f"{CANDIDATE}_minus_{CHAMPION}"
AGAINST_ZERO_SHOT = f"{CANDIDATE}_minus_{ZERO_SHOT}"


@dataclass(frozen=True)
class Decision:
    promote: bool
    reason: str


def decide(evaluation: Evaluation) -> Decision:
    """Promote when the candidate beats the champion over all domains, loses to it in none, and falls below zero-shot in none.

    Each word is about 95 % intervals over held-out users: beats means the interval lies above 0, loses and falls below mean under 0.
    """
    gain = evaluation.overall.intervals[AGAINST_CHAMPION]
    shown = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {evaluation.overall.users} held-out users"
    worse = _below_zero(evaluation, AGAINST_CHAMPION)
    if worse:
        return Decision(promote=False, reason=f"significantly worse than the champion in {worse} (overall {shown})")
    below = _below_zero(evaluation, AGAINST_ZERO_SHOT)
    if below:
        return Decision(promote=False, reason=f"significantly below the base answers in {below} (overall {shown})")
    if gain.low <= 0:
        return Decision(promote=False, reason=f"not significantly better than the champion: {shown}")
    return Decision(promote=True, reason=f"significantly better than the champion: {shown}")


def _below_zero(evaluation: Evaluation, comparison: str) -> str:
    return ", ".join(domain for domain, found in evaluation.domains.items() if found.intervals[comparison].high < 0)
