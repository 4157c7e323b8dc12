"""Outcomes to trajectories: the teacher writes the reasoning, the checks accept it, rejections are counted by reason."""

from __future__ import annotations

from collections.abc import Sequence

from infra.telemetry.metrics import TEACHER_REJECTED, TEACHER_TAUGHT
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite
from schemas.topics import TRAJECTORIES
from schemas.trajectories import Trajectory
from workers.runtime.handler import Incoming, Outgoing
from workers.teacher.checks import ReasoningLength, checks_digest, first_flaw, why_not_taught
from workers.teacher.reasoning_teacher import ReasoningTeacher, Rejection, best_example


class TeacherHandler:
    """The teacher worker's handler. An outcome without a trajectory is finished, it is no dead letter.

    Every outcome is counted once, as taught or as rejected for one reason.
    """

    def __init__(self, teacher: ReasoningTeacher, holdout_share: float, length: ReasoningLength) -> None:
        self._teacher = teacher
        self._holdout_share = holdout_share
        self._length = length
        self._checks_digest = checks_digest(length)

    async def __call__(self, incoming: Incoming[Outcome]) -> Sequence[Outgoing]:
        outcome, signature = incoming.message, self._teacher.signature
        rewrite = await self._teach(outcome)
        if isinstance(rewrite, Rejection):
            TEACHER_REJECTED.add(teacher=signature.name, reason=str(rewrite.reason))
            return []
        TEACHER_TAUGHT.add(teacher=signature.name)
        trajectory_id = derive("trajectory", outcome.outcome_id, signature.model or signature.name)
        trajectory = Trajectory(
            trajectory_id=trajectory_id,
            outcome=outcome,
            example_id=best_example(outcome).interaction_id,
            reasoning=rewrite.reasoning,
            teacher=signature,
            checks_digest=self._checks_digest,
        )
        return [Outgoing(TRAJECTORIES, trajectory, trajectory_id)]

    async def _teach(self, outcome: Outcome) -> Rewrite | Rejection:
        reason = why_not_taught(outcome, self._holdout_share)
        if reason is not None:
            return Rejection(reason)
        rewrite = await self._teacher.explain(outcome, best_example(outcome))
        if isinstance(rewrite, Rejection):
            return rewrite
        reason = first_flaw(rewrite, outcome, self._length)
        return rewrite if reason is None else Rejection(reason)
