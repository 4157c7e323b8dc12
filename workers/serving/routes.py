"""Whose answer a question gets while a challenger is tried: decided by hash, from what the registry says and what is loaded here. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from schemas.experiments import Arm, Assignment, arm_of, is_shadowed
from schemas.promotion import VersionState
from schemas.queries import Query
from schemas.responses import ModelVersion


@dataclass(frozen=True)
class Routes:
    """What this worker answers with. A challenger is named once it is loaded, warm and checked; until then nobody here is in its experiment."""

    champion: ModelVersion
    challenger: ModelVersion | None = None
    stage: VersionState | None = None  # the three of the challenger's newest transition
    experiment: UUID | None = None
    share: float = 0.0

    def assignment(self, query: Query) -> Assignment:
        """Who is meant to answer."""
        if self.challenger is None or self.experiment is None:
            return outside(self.champion)
        arm = Arm.CHAMPION if self.stage is VersionState.SHADOW else arm_of(self.experiment, self.share, query.tenant, query.user)
        answering = self.challenger if arm is Arm.CANARY else self.champion
        return Assignment(experiment=self.experiment, arm=arm, version=answering.version)

    def shadow(self, query: Query) -> Assignment | None:
        """Of the unseen answer, where the question gets one."""
        if (
            self.challenger is None
            or self.experiment is None
            or self.stage is not VersionState.SHADOW
            or not is_shadowed(self.experiment, self.share, query.query_id)
        ):
            return None
        return Assignment(experiment=self.experiment, arm=Arm.SHADOW, version=self.challenger.version)


def outside(champion: ModelVersion) -> Assignment:
    """Of an answer that counts in no experiment."""
    return Assignment(experiment=None, arm=Arm.CHAMPION, version=champion.version)
