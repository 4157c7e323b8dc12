"""Registry tag `gate`: the result that the training run stored for its version. Imports no torch, so the promoter can read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infra.registry.client import RegisteredVersion
from schemas.gate import GateResult
from schemas.promotion import REASON_CHARS, Transition, VersionState

#: Tag of a version: a `GateResult` as JSON, with the digests of the compared versions in its evidence.
GATE = "gate"
#: Maximum length of a registry tag.
TAG_CHARS = 100_000
#: Exit code of `python -m trainer.judge` if the broker or the registry is unavailable. It says nothing about the version.
EXIT_TRY_LATER = 75


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
