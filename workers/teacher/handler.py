"""Outcomes become trajectories: the teacher explains, the checks decide, and what is left out is counted by reason."""

from __future__ import annotations

from collections.abc import Sequence

from infra.telemetry.metrics import TEACHER_REJECTED, TEACHER_TAUGHT
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite
from schemas.topics import TRAJECTORIES
from schemas.trajectories import Trajectory
from workers.runtime.handler import Incoming, Outgoing
from workers.teacher.checks import ReasoningLength, digest, flaw, why_not_taught
from workers.teacher.reasoning_teacher import ReasoningTeacher, Rejection, best_example


class TeacherHandler:
    """The teacher worker's handler. An outcome that gives no trajectory is done with, not set aside.

    Every outcome that is handled is counted once, as taught or as rejected for one reason: the share rejected is of their sum.
    """

    def __init__(self, teacher: ReasoningTeacher, holdout_share: float, max_reasoning_chars: int, min_reasoning_chars: int) -> None:
        self._teacher = teacher
        self._holdout_share = holdout_share
        self._brevity = ReasoningLength(min_reasoning_chars, max_reasoning_chars)
        self._checks_digest = digest(self._brevity)

    async def __call__(self, incoming: Incoming[Outcome]) -> Sequence[Outgoing]:
        outcome, signature = incoming.message, self._teacher.signature
        taught = await self._teach(outcome)
        if isinstance(taught, Rejection):
            TEACHER_REJECTED.add(teacher=signature.name, reason=str(taught.reason))
            return []
        TEACHER_TAUGHT.add(teacher=signature.name)
        trajectory_id = derive("trajectory", outcome.outcome_id, signature.model or signature.name)
        trajectory = Trajectory(
            trajectory_id=trajectory_id,
            outcome=outcome,
            example_id=best_example(outcome).interaction_id,
            reasoning=taught.reasoning,
            teacher=signature,
            checks_digest=self._checks_digest,
        )
        return [Outgoing(TRAJECTORIES, trajectory, trajectory_id)]

    async def _teach(self, outcome: Outcome) -> Rewrite | Rejection:
        reason = why_not_taught(outcome, self._holdout_share)
        if reason is not None:
            return Rejection(reason)
        taught = await self._teacher.explain(outcome, best_example(outcome))
        if isinstance(taught, Rejection):
            return taught
        reason = flaw(taught, outcome, self._brevity)
        return taught if reason is None else Rejection(reason)
