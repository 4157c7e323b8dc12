"""Invariants of the answers, from questions, answers and histories, without the system's own figures. No I/O, but `generated_texts` runs
the model of a version.

Workers poll the registry; until the next poll they serve the previous version. So answers of a version may come for GRACE_S after its stage ended. Time in
which the registry is away does not count.

Each text is compared with the text that its stamped version generates alone, one question at a time.
Sums in another order may decide a tie differently, so a different text alone is no anomaly. A text that another version generates, and not the stamped one, is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from infra.settings import Settings
from lab.promotion.live.simulated_users import ObservedAnswer
from lab.promotion.live.system import Downtime
from schemas.contexts import Context
from schemas.experiments import Arm, arm_of
from schemas.promotion import Transition, VersionState
from schemas.responses import ModelVersion, ResponseStatus
from trainer.promotion.version_history import VersionHistories
from workers.reflection.reflector import Reflector
from workers.serving.engines.factory import start_engine
from workers.serving.routes import Routes

#: Time for one poll of a worker, loading a version, and the answers in flight, on a busy machine.
GRACE_S = 10.0
#: States in which a version answers users.
SHOWN = frozenset({VersionState.CANARY, VersionState.APPROVAL, VersionState.CHAMPION})


@dataclass(frozen=True)
class StageInterval:
    """One stage of a version, from a transition to the next one."""

    version: str
    step: Transition
    until: datetime | None


def stage_intervals(histories: VersionHistories) -> list[StageInterval]:
    intervals = []
    for version in histories.versions:
        ends = [step.at for step in version.transitions[1:]]
        intervals += [StageInterval(version.version, step, until) for step, until in zip(version.transitions, [*ends, None], strict=True)]
    return intervals


def late_s(at: datetime, until: datetime | None, downtimes: Sequence[Downtime]) -> float:
    """Seconds after `until` in which the registry answered."""
    if until is None or at <= until:
        return 0.0
    begin, end = until.timestamp(), at.timestamp()
    away = sum(max(0.0, min(end, downtime.to_s) - max(begin, downtime.from_s)) for downtime in downtimes)
    return max(0.0, end - begin - away)


class AnswerChecker:
    """Finds the anomalies of one run. Afterwards `slowest_s` is the maximum lateness of an answer."""

    def __init__(self, histories: VersionHistories, downtimes: Sequence[Downtime]) -> None:
        self._histories, self._downtimes = histories, downtimes
        self._intervals = stage_intervals(histories)
        self.slowest_s = 0.0

    def anomalies(
        self, asked: Collection[UUID], answers: Sequence[ObservedAnswer], shadows: Sequence[ObservedAnswer], events: Collection[tuple[str, int]]
    ) -> list[str]:
        anomalies = [*_counts(asked, answers), *self._unannounced(events)]
        for answer in answers:
            anomalies += self._check_answer(answer)
        for shadow in shadows:
            anomalies += self._check_shadow(shadow)
        return anomalies

    def _unannounced(self, events: Collection[tuple[str, int]]) -> Iterator[str]:
        for version in self._histories.versions:
            for step in version.transitions:
                if (version.version, step.seq) not in events:
                    yield f"version {version.version}: transition {step.seq} was never announced"

    def _check_answer(self, answer: ObservedAnswer) -> Iterator[str]:
        assignment = answer.assignment
        if assignment is None:
            yield f"{answer.query_id}: no assignment"
            return
        if answer.model and answer.model.version != assignment.version:
            yield f"{answer.query_id}: assigned to version {assignment.version}, answered by {answer.model.version}"
        if not self._is_in_time(answer, assignment.version, SHOWN):
            yield f"{answer.query_id}: version {assignment.version} answered at {answer.at.isoformat()}, outside its stage"
        if assignment.experiment is None:
            if assignment.arm is not Arm.CHAMPION:
                yield f"{answer.query_id}: arm {assignment.arm} without an experiment"
        elif (expected := self._arm(answer, assignment.experiment)) is not assignment.arm:
            yield f"{answer.query_id}: arm {assignment.arm}, not {expected}"

    def _check_shadow(self, shadow: ObservedAnswer) -> Iterator[str]:
        assignment = shadow.assignment
        if assignment is None or assignment.arm is not Arm.SHADOW or shadow.model is None or shadow.model.version != assignment.version:
            yield f"shadow of {shadow.query_id}: assigned {assignment}"
        elif not self._is_in_time(shadow, assignment.version, frozenset({VersionState.SHADOW})):
            yield f"shadow of {shadow.query_id}: version {assignment.version} answered at {shadow.at.isoformat()}, outside its stage"

    def _is_in_time(self, answer: ObservedAnswer, version: str, states: frozenset[VersionState]) -> bool:
        lateness = [
            late_s(answer.at, interval.until, self._downtimes)
            for interval in self._intervals
            if interval.version == version and interval.step.after in states and interval.step.at <= answer.at
        ]
        if not lateness or min(lateness) > GRACE_S:
            return False
        self.slowest_s = max(self.slowest_s, min(lateness))
        return True

    def _arm(self, answer: ObservedAnswer, experiment: UUID) -> Arm | None:
        """The user's arm by the histories alone; None for an unknown experiment."""
        interval = next((interval for interval in self._intervals if interval.step.experiment == experiment), None)
        if interval is None:
            return None
        return Arm.CHAMPION if interval.step.after is VersionState.SHADOW else arm_of(experiment, interval.step.share, *answer.key)


def _counts(asked: Collection[UUID], answers: Sequence[ObservedAnswer]) -> Iterator[str]:
    times = Counter(answer.query_id for answer in answers)
    for query_id in asked:
        if times[query_id] != 1:
            yield f"{query_id}: answered {times[query_id]} times"
    for query_id in times.keys() - set(asked):
        yield f"{query_id}: answered, but never asked"


WRITTEN = frozenset({ResponseStatus.PERSONALIZED, ResponseStatus.UNPARSABLE})

#: The texts that a version generates, by question.
Texts = Sequence[tuple[ResponseStatus, tuple[str, str]]]


def generated_texts(settings: Settings, checkpoint: Path, digest: str, contexts: Sequence[Context]) -> Texts:
    """Loads the checkpoint and answers every question. Blocks."""
    model = ModelVersion(name=settings.registry.model_name, version="0", digest=digest)
    alone = settings.changed(reflection={"versions": 1})
    engine = start_engine(alone, checkpoint, model)

    async def answer_all() -> Texts:
        reflector = Reflector(alone.reflection, alone.reflection_form, alone.rewrite_limits, engine, lambda: Routes(model))
        responses = [await reflector.answer(context) for context in contexts]
        await engine.close()
        return [(response.status, (response.reasoning, response.answer)) for response in responses]

    return asyncio.run(answer_all())


def compare(answers: Sequence[ObservedAnswer], texts: Mapping[str, Texts]) -> tuple[dict[str, int], list[str]]:
    """Figures, and the answers with another version's text. `texts` are by digest."""
    counts = {"compared": 0, "equal": 0, "other_words": 0}
    anomalies = []
    for answer in answers:
        if answer.model is None or answer.status not in WRITTEN:
            continue
        counts["compared"] += 1
        text, own = (answer.status, answer.text), texts.get(answer.model.digest)
        if own is None:
            anomalies.append(f"{answer.query_id}: stamped version {answer.model.version}, with a digest that is not registered")
        elif text == own[answer.question]:
            counts["equal"] += 1
        elif any(text == others[answer.question] for others in texts.values()):
            anomalies.append(f"{answer.query_id}: stamped version {answer.model.version}, with the text of another")
        else:
            counts["other_words"] += 1
    first, *others = texts.values() or [()]
    differing = [a != b for other in others for a, b in zip(first, other, strict=True)]
    counts["telling_percent"] = round(100 * sum(differing) / max(1, len(differing)))  # share of questions with different texts
    return counts, anomalies
