"""What must hold of the answers, from what was asked, what came back and the logs: pure, and nothing of the system's own figures.

A worker learns of a step when it looks: after a version's time is over answers by it may still come for GRACE_S in which the registry answered. It
serves on while the registry is away, so that time does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from lab.promotion.live.system import Downtime
from lab.promotion.live.users import ObservedAnswer
from schemas.experiments import Arm, arm_of
from schemas.promotion import Transition, VersionState
from trainer.promotion.version_history import VersionHistories

#: One look of a worker, a version it fetches and loads meanwhile, and the answers under way, on a machine that is busy.
GRACE_S = 10.0
#: Where a version answers users.
SHOWN = frozenset({VersionState.CANARY, VersionState.APPROVAL, VersionState.CHAMPION})


@dataclass(frozen=True)
class StageInterval:
    """A stage of a version: from one transition to the next."""

    version: str
    step: Transition
    until: datetime | None


def reigns(histories: VersionHistories) -> list[StageInterval]:
    found = []
    for version in histories.versions:
        ends = [step.at for step in version.transitions[1:]]
        found += [StageInterval(version.version, step, until) for step, until in zip(version.transitions, [*ends, None], strict=True)]
    return found


def overstayed_s(at: datetime, until: datetime | None, absences: Sequence[Downtime]) -> float:
    """How long after `until`, while the registry answered."""
    if until is None or at <= until:
        return 0.0
    begin, end = until.timestamp(), at.timestamp()
    away = sum(max(0.0, min(end, absence.to_s) - max(begin, absence.from_s)) for absence in absences)
    return max(0.0, end - begin - away)


class AnswerChecker:
    """`anomalies` of one run; afterwards `slowest_s` is the longest that an answer came behind its version's time."""

    def __init__(self, histories: VersionHistories, absences: Sequence[Downtime]) -> None:
        self._histories, self._absences = histories, absences
        self._reigns = reigns(histories)
        self.slowest_s = 0.0

    def anomalies(
        self, asked: Collection[UUID], answers: Sequence[ObservedAnswer], shadows: Sequence[ObservedAnswer], events: Collection[tuple[str, int]]
    ) -> list[str]:
        told = [*_counts(asked, answers), *self._unsaid(events)]
        for answer in answers:
            told += self._of_shown(answer)
        for shadow in shadows:
            told += self._of_shadow(shadow)
        return told

    def _unsaid(self, events: Collection[tuple[str, int]]) -> Iterator[str]:
        for version in self._histories.versions:
            for step in version.transitions:
                if (version.version, step.seq) not in events:
                    yield f"version {version.version}: transition {step.seq} was never announced"

    def _of_shown(self, answer: ObservedAnswer) -> Iterator[str]:
        found = answer.assignment
        if found is None:
            yield f"{answer.query_id}: no assignment"
            return
        if answer.model and answer.model.version != found.version:
            yield f"{answer.query_id}: meant for version {found.version}, answered by {answer.model.version}"
        if not self._is_in_time(answer, found.version, SHOWN):
            yield f"{answer.query_id}: version {found.version} answered at {answer.at.isoformat()}, when it must not"
        if found.experiment is None:
            if found.arm is not Arm.CHAMPION:
                yield f"{answer.query_id}: arm {found.arm} without an experiment"
        elif (meant := self._arm(answer, found.experiment)) is not found.arm:
            yield f"{answer.query_id}: arm {found.arm}, not {meant}"

    def _of_shadow(self, shadow: ObservedAnswer) -> Iterator[str]:
        found = shadow.assignment
        if found is None or found.arm is not Arm.SHADOW or shadow.model is None or shadow.model.version != found.version:
            yield f"shadow of {shadow.query_id}: assigned {found}"
        elif not self._is_in_time(shadow, found.version, frozenset({VersionState.SHADOW})):
            yield f"shadow of {shadow.query_id}: version {found.version} answered at {shadow.at.isoformat()}, when it must not"

    def _is_in_time(self, answer: ObservedAnswer, version: str, states: frozenset[VersionState]) -> bool:
        over = [
            overstayed_s(answer.at, reign.until, self._absences)
            for reign in self._reigns
            if reign.version == version and reign.step.after in states and reign.step.at <= answer.at
        ]
        if not over or min(over) > GRACE_S:
            return False
        self.slowest_s = max(self.slowest_s, min(over))
        return True

    def _arm(self, answer: ObservedAnswer, experiment: UUID) -> Arm | None:
        """What the user's arm is by the log alone; None for an experiment that never was."""
        reign = next((reign for reign in self._reigns if reign.step.experiment == experiment), None)
        if reign is None:
            return None
        return Arm.CHAMPION if reign.step.after is VersionState.SHADOW else arm_of(experiment, reign.step.share, *answer.key)


def _counts(asked: Collection[UUID], answers: Sequence[ObservedAnswer]) -> Iterator[str]:
    times = Counter(answer.query_id for answer in answers)
    for query_id in asked:
        if times[query_id] != 1:
            yield f"{query_id}: answered {times[query_id]} times"
    for query_id in times.keys() - set(asked):
        yield f"{query_id}: answered, and nobody asked"
