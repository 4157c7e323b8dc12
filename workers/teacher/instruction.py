"""Outcomes become trajectories: the teacher explains, the checks decide, and what is left out is counted by reason."""

from __future__ import annotations

from collections.abc import Sequence

from infra.telemetry.metrics import TEACHER_REJECTED, TEACHER_TAUGHT
from schemas.contexts import HistoryItem
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.topics import TRAJECTORIES
from schemas.trajectories import Trajectory
from workers.runtime.handler import Incoming, Outgoing
from workers.teacher.checks import flaw, why_not_taught
from workers.teacher.teaching import Rejected, Teacher


class Instruction:
    """The teacher worker's handler. An outcome that gives no trajectory is done with, not set aside."""

    def __init__(self, teacher: Teacher, holdout_share: float, max_reasoning_chars: int) -> None:
        self._teacher = teacher
        self._holdout_share = holdout_share
        self._max_chars = max_reasoning_chars

    async def __call__(self, incoming: Incoming[Outcome]) -> Sequence[Outgoing]:
        outcome, signature = incoming.message, self._teacher.signature
        taught = await self._teach(outcome)
        if isinstance(taught, Rejected):
            TEACHER_REJECTED.add(teacher=signature.name, reason=str(taught.reason))
            return []
        TEACHER_TAUGHT.add(teacher=signature.name)
        trajectory_id = derive("trajectory", outcome.outcome_id, signature.name)
        example_id = _best_example(outcome).interaction_id
        trajectory = Trajectory(trajectory_id=trajectory_id, outcome=outcome, example_id=example_id, reasoning=taught, teacher=signature)
        return [Outgoing(TRAJECTORIES, trajectory, trajectory_id)]

    async def _teach(self, outcome: Outcome) -> str | Rejected:
        reason = why_not_taught(outcome, self._holdout_share)
        if reason is not None:
            return Rejected(reason)
        explained = await self._teacher.explain(outcome, _best_example(outcome))
        if isinstance(explained, Rejected):
            return explained
        reason = flaw(explained, self._max_chars)
        return explained if reason is None else Rejected(reason)


def _best_example(outcome: Outcome) -> HistoryItem:
    """p*: what retrieval ranked first."""
    return outcome.response.context.items[0]
