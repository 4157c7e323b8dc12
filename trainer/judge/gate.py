"""The gate: the decision on a candidate, the figures it rests on, and the registry tag `gate` that stores the result of a training run for its version.

Pure (docs/rules.md, 7), and imports no torch, so the promoter can read the tag.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.registry.client import RegisteredVersion
from schemas.gate import GateResult
from schemas.promotion import REASON_CHARS, Transition, VersionState
from schemas.run_report import Comparison, Evaluation

#: Arms of an evaluation: the base answers, and the rewrites of two versions.
ZERO_SHOT, CHAMPION, CANDIDATE = "zero_shot", "champion", "candidate"
AGAINST_CHAMPION = f"{CANDIDATE}_minus_{CHAMPION}"
AGAINST_ZERO_SHOT = f"{CANDIDATE}_minus_{ZERO_SHOT}"
#: Maximum number of domains in the evidence, those with the worst difference to the champion first. One takes some 500 bytes.
MAX_DOMAINS = 50
#: Tag of a version: a `GateResult` as JSON, with the digests of the compared versions in its evidence.
GATE = "gate"
#: Maximum length of a registry tag.
TAG_CHARS = 100_000
#: Exit code of `python -m trainer.judge` if the broker or the registry is unavailable. It says nothing about the version.
EXIT_TRY_LATER = 75


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


def gate_figures(evaluation: Evaluation) -> dict[str, Any]:
    """Users, cases, scores by arm and differences `<after>_minus_<before>` as [mean, low, high]: overall, by domain, by slice."""
    domains = sorted(evaluation.domains.items(), key=lambda item: (item[1].intervals[AGAINST_CHAMPION].mean, item[0]))
    return {
        "overall": _figures(evaluation.overall),
        "domains": {name: _figures(comparison) for name, comparison in domains[:MAX_DOMAINS]},
        "domains_left_out": max(0, len(domains) - MAX_DOMAINS),
        "slices": {name: _figures(comparison) for name, comparison in evaluation.slices.items()},
        "fallen_back": _rounded(evaluation.fallen_back),
    }


def _figures(comparison: Comparison) -> dict[str, Any]:
    differences = {name: [round(figure, 4) for figure in interval] for name, interval in comparison.intervals.items()}
    scores = _rounded(comparison.scores)
    return {"metric": comparison.metric, "users": comparison.users, "cases": comparison.cases, "scores": scores, "differences": differences}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def gate_tag(result: GateResult) -> dict[str, str]:
    """The tag to register a version with."""
    return {GATE: json.dumps(result.model_dump(mode="json"), sort_keys=True)}


def gate_of(version: RegisteredVersion, champion: RegisteredVersion) -> GateResult | None:
    """The result in a version's tag, if it compares exactly these two checkpoints. None: the version must be judged (again)."""
    try:
        result = GateResult.model_validate(json.loads(version.tags[GATE]))
        if not is_about(result.evidence, version, champion):
            return None
        _check_recordable(result, version)
    except (KeyError, ValueError, RecursionError):  # anyone who may write tags can nest JSON deeply
        return None
    return result


def is_about(evidence: Mapping[str, Any], candidate: RegisteredVersion, champion: RegisteredVersion) -> bool:
    """Whether the evidence compares these two checkpoints."""
    return (evidence.get("candidate"), evidence.get("champion")) == (candidate.digest, champion.digest)


def _check_recordable(result: GateResult, version: RegisteredVersion) -> None:
    """Raises ValueError if the transition that follows from the result cannot be written as a tag or read back."""
    facts: dict[str, Any] = {"evidence": result.evidence, "canary_prompts": result.canary_prompts}
    at, reason = version.created_at, result.reason[:REASON_CHARS]
    transition = Transition(seq=1, before=VersionState.REGISTERED, after=VersionState.INCONCLUSIVE, at=at, actor="promoter", reason=reason, **facts)
    if len(text := transition.model_dump_json()) > TAG_CHARS - 100:  # another time and number may take more
        raise ValueError("longer than a tag of the registry")
    Transition.model_validate_json(text)
