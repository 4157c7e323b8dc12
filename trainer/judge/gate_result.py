"""Result of a gate: the outcome of judging a version offline, and the registry tag that holds it. Imports no torch, so the promoter can read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

from infra.registry.client import RegisteredVersion
from schemas.promotion import REASON_CHARS, CanaryPrompt, Transition, VersionState

#: The tag of a version that holds what its trainer found: a `GateResult` with the digests that it is about.
GATE = "gate"
#: Longer tags the registry does not take.
TAG_CHARS = 100_000
#: Exit code of `python -m trainer.judge` if the broker or the registry is unavailable. It says nothing about the version.
EXIT_TRY_LATER = 75

Outcome = Literal["passed", "rejected", "inconclusive"]


@dataclass(frozen=True)
class GateResult:
    """`evidence` holds figures, ids and hashes as plain JSON values, never a user's text."""

    outcome: Outcome
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    canary_prompts: tuple[CanaryPrompt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        prompts = [prompt.model_dump(mode="json") for prompt in self.canary_prompts]
        return {"outcome": self.outcome, "reason": self.reason, "evidence": dict(self.evidence), "canary_prompts": prompts}

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """Raises ValueError for anything that `to_json` does not write."""
        try:
            outcome, reason, evidence, prompts = found["outcome"], found["reason"], found["evidence"], found["canary_prompts"]
            if outcome not in get_args(Outcome) or not isinstance(reason, str) or not isinstance(evidence, dict):
                raise ValueError("not the result of a gate")
            return cls(outcome, reason, evidence, tuple(CanaryPrompt.model_validate(prompt) for prompt in prompts))
        except (KeyError, TypeError) as error:
            raise ValueError("not the result of a gate") from error

    def about(self, candidate: str, champion: str) -> GateResult:
        """The same, with the digests of the two that were compared in its evidence."""
        return replace(self, evidence={**self.evidence, "candidate": candidate, "champion": champion})


def gate_tag(result: GateResult) -> dict[str, str]:
    """The tag that a version is registered with."""
    return {GATE: json.dumps(result.to_json(), sort_keys=True)}


def gate_of(version: RegisteredVersion, champion: RegisteredVersion) -> GateResult | None:
    """What the trainer found, where it judged exactly these files against exactly that champion's; None: it has to be judged (again)."""
    try:
        result = GateResult.from_json(json.loads(version.tags[GATE]))
        if not is_about(result.evidence, version, champion):
            return None
        _try_to_record(result, version)
    except (KeyError, ValueError, RecursionError):  # whoever may write tags may nest them
        return None
    return result


def is_about(evidence: Mapping[str, Any], candidate: RegisteredVersion, champion: RegisteredVersion) -> bool:
    """Whether these figures compare those two."""
    return (evidence.get("candidate"), evidence.get("champion")) == (candidate.digest, champion.digest)


def _try_to_record(result: GateResult, version: RegisteredVersion) -> None:
    """Raises ValueError where the transition that it leads to could not be written, or not be read again."""
    facts: dict[str, Any] = {"evidence": result.evidence, "canary_prompts": result.canary_prompts}
    at, reason = version.created_at, result.reason[:REASON_CHARS]
    step = Transition(seq=1, before=VersionState.REGISTERED, after=VersionState.INCONCLUSIVE, at=at, actor="promoter", reason=reason, **facts)
    if len(text := step.model_dump_json()) > TAG_CHARS - 100:  # another time and number may take more
        raise ValueError("longer than a tag of the registry")
    Transition.model_validate_json(text)
