"""Chooses the version that answers a query during an experiment, by hash of the user. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from schemas.experiments import Arm, Assignment, arm_of, is_shadowed
from schemas.promotion import VersionState
from schemas.queries import Query
from schemas.responses import ModelVersion


@dataclass(frozen=True)
class ChallengerRoute:
    """A challenger that is loaded, warm and checked. Stage, experiment and share are those of its newest transition."""

    model: ModelVersion
    stage: VersionState
    experiment: UUID | None
    share: float


@dataclass(frozen=True)
class Routes:
    """The versions that answer in this worker at one moment. Without a challenger its users take part in no experiment."""

    champion: ModelVersion
    challenger: ChallengerRoute | None = None

    def assignment(self, query: Query) -> Assignment:
        """The version that should answer, and the arm that the answer counts for."""
        challenger = self.challenger
        if challenger is None or challenger.experiment is None:
            return outside_experiments(self.champion)
        is_shadow = challenger.stage is VersionState.SHADOW
        arm = Arm.CHAMPION if is_shadow else arm_of(challenger.experiment, challenger.share, query.tenant, query.user)
        answering = challenger.model if arm is Arm.CANARY else self.champion
        return Assignment(experiment=challenger.experiment, arm=arm, version=answering.version)

    def shadow(self, query: Query) -> Assignment | None:
        """The assignment of the query's shadow answer; None if it gets none."""
        challenger = self.challenger
        if challenger is None or challenger.experiment is None or challenger.stage is not VersionState.SHADOW:
            return None
        if not is_shadowed(challenger.experiment, challenger.share, query.query_id):
            return None
        return Assignment(experiment=challenger.experiment, arm=Arm.SHADOW, version=challenger.model.version)


def outside_experiments(champion: ModelVersion) -> Assignment:
    """The assignment of an answer that counts in no experiment."""
    return Assignment(experiment=None, arm=Arm.CHAMPION, version=champion.version)
