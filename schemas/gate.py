"""Result of a gate: the outcome of judging a version offline against the champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from schemas.messages import Record
from schemas.promotion import CanaryPrompt

GateOutcome = Literal["passed", "rejected", "inconclusive"]


class GateResult(Record):
    """Output of `python -m trainer.judge`, registry tag `gate` and field `gate` of a run report. Holds figures, ids and hashes, never a user's text."""

    outcome: GateOutcome
    reason: str  # in words, for people
    evidence: Mapping[str, Any] = Field(default_factory=dict)  # becomes the evidence of the version's next transition
    canary_prompts: tuple[CanaryPrompt, ...] = ()

    def about(self, candidate: str, champion: str) -> GateResult:
        """The same result, with the digests of the two compared versions in its evidence."""
        return self.model_copy(update={"evidence": {**self.evidence, "candidate": candidate, "champion": champion}})
