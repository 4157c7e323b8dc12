"""The state machine: from the logs and what was found out to the next write, or none. Pure; `promoter` does the writing.

What must be so whoever asks comes first (`settle`): a champion that was replaced has that in its own log, and nobody is tried whose comparison was with
another champion. Then what was found out is acted upon (`advance`), one step at a time. What operators ask stands in `wishes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from infra.registry.client import RegisteredVersion
from infra.settings import PromotionSettings
from schemas.gate import GateResult
from schemas.ids import derive
from schemas.model_events import Alias
from schemas.promotion import CHALLENGING, VersionState
from trainer.promotion.verdict import ExperimentVerdict, VerdictOutcome
from trainer.promotion.version_history import TransitionWrite, VersionHistories

#: Who acts where no person does.
ACTOR = "promoter"
#: So often a version whose answers nobody counted is tried anew.
TRIES = 3
ADOPTED = "serves already; from before transitions were recorded"
#: The way to the champion, in order.
WAY = (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.APPROVAL, VersionState.CHAMPION)


@dataclass(frozen=True)
class Findings:
    """What is known at one look besides the logs."""

    gate: tuple[str, GateResult] | None = None  # the version that was judged against the champion of now, and how it went
    verdict: ExperimentVerdict | None = None  # about the challenger, where figures are current
    refused: Mapping[str, str] = field(default_factory=dict)  # versions that a worker would not serve, with its reason
    uncounted_s: float | None = None  # for so long nobody counted an answer of the challenger's experiment: too long for a verdict


def settle(histories: VersionHistories, now: datetime) -> TransitionWrite | None:
    """The next write that makes the logs agree with one another, or None: they do."""
    for version in histories.versions:
        if version.state is VersionState.CHAMPION and version is not histories.champion:
            handover, by = histories.successor(version)
            how = "rolled back, in favour of" if handover.rolls_back else "gave way to"
            return histories.transition(version, histories.state(version), handover.actor, f"{how} version {by.version}: {handover.reason}", now)
    if histories.champion is None:
        aliased = next((version for version in histories.versions if Alias.CHAMPION in version.aliases), None)
        return first_champion(histories, aliased, ACTOR, ADOPTED, now) if aliased else None
    for version in histories.versions:
        if version.state in (VersionState.GATED, *CHALLENGING) and histories.is_stale(version):
            reason = f"was compared with a champion that gave way; now it is version {histories.champion.version}"
            return histories.transition(version, VersionState.REGISTERED, ACTOR, reason, now)
    return None


def first_champion(histories: VersionHistories, version: RegisteredVersion, actor: str, reason: str, now: datetime) -> TransitionWrite | None:
    """The next write on the way of the very first champion, which is compared with nobody."""
    if version.state is VersionState.REGISTERED:
        return histories.transition(version, VersionState.GATED, actor, reason, now)
    return histories.transition(version, VersionState.CHAMPION, actor, reason, now) if version.state is VersionState.GATED else None


def to_judge(histories: VersionHistories) -> RegisteredVersion | None:
    """The version whose gate is next: the oldest that nobody judged. Those older than the first champion are from before, and left alone."""
    if not histories.handovers:
        return None
    first = int(histories.handovers[0][1].version)
    return next((version for version in histories.in_state(VersionState.REGISTERED) if int(version.version) > first), None)


def advance(histories: VersionHistories, findings: Findings, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    """The next step on settled logs, or None. Harm comes before everything that could wait."""
    if histories.champion is None:
        return None
    return (
        _refused_champion(histories, findings, promotion, now)
        or _tried(histories, findings, promotion, now)
        or _judged(histories, findings, now)
        or _begun(histories, promotion, now)
    )


def promote(histories: VersionHistories, version: RegisteredVersion, actor: str, reason: str, now: datetime, **facts: Any) -> TransitionWrite:
    """The one write that makes `version` champion and retires, or with `rolls_back=True` rejects, the present one."""
    assert histories.champion is not None
    return histories.transition(version, VersionState.CHAMPION, actor, reason, now, replaces=histories.champion.version, **facts)


def stage_after(state: VersionState, promotion: PromotionSettings) -> VersionState:
    """The next stage on the way that the settings do not leave out."""
    left_out = {
        VersionState.SHADOW: promotion.shadow_answers == 0,
        VersionState.CANARY: promotion.canary_answers == 0,
        VersionState.APPROVAL: promotion.approval == "automatic",
    }
    return next(stage for stage in WAY[WAY.index(state) + 1 :] if not left_out.get(stage))


def _refused_champion(histories: VersionHistories, findings: Findings, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    champion = histories.champion
    if champion is None or champion.version not in findings.refused or not promotion.rollback_on_refusal:
        return None
    sound = next((version for version in histories.former if version.version not in findings.refused), None)
    reason = f"a worker does not serve version {champion.version}: {findings.refused[champion.version]}"
    return promote(histories, sound, ACTOR, reason, now, rolls_back=True) if sound else None


def _tried(histories: VersionHistories, findings: Findings, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    """What follows for the version that is tried on users."""
    version = histories.challenger
    if version is None:
        return None
    if version.version in findings.refused:
        return histories.transition(version, VersionState.REJECTED, ACTOR, f"a worker does not serve it: {findings.refused[version.version]}", now)
    verdict = findings.verdict
    facts = {"evidence": verdict.evidence} if verdict else {}
    if verdict and verdict.outcome is VerdictOutcome.HARMFUL:
        return histories.transition(version, VersionState.REJECTED, ACTOR, verdict.reason, now, **facts)
    if findings.uncounted_s is not None:
        return _uncounted(histories, version, findings.uncounted_s, now)
    if version.state is VersionState.APPROVAL:
        is_better = verdict is not None and verdict.outcome is VerdictOutcome.BETTER
        never_tried = not version.transitions[-1].share and not promotion.canary_answers  # the settings want no figures, so none will come
        if promotion.approval == "person" or not (is_better or never_tried):
            return None
        return promote(histories, version, ACTOR, "approval is automatic now", now, **facts)
    if verdict is None or verdict.outcome is VerdictOutcome.RUNNING:
        return None
    if verdict.outcome is VerdictOutcome.INCONCLUSIVE:
        return histories.transition(version, VersionState.INCONCLUSIVE, ACTOR, verdict.reason, now, **facts)
    return _onward(histories, version, promotion, verdict.reason, now, **facts)


def _uncounted(histories: VersionHistories, version: RegisteredVersion, uncounted_s: float, now: datetime) -> TransitionWrite:
    """Who cannot be judged is registered again and tried anew, in an experiment that is counted; who was so TRIES times is undecided for good."""
    before = sum("uncounted_s" in step.evidence for step in version.transitions)
    after = VersionState.INCONCLUSIVE if before >= TRIES and version.state is not VersionState.APPROVAL else VersionState.REGISTERED
    reason = f"no answer of its experiment was counted for {uncounted_s / 3600:.1f} hours" + (f"; it was tried anew {before} times" if before else "")
    return histories.transition(version, after, ACTOR, reason, now, evidence={"uncounted_s": round(uncounted_s, 1)})


def _judged(histories: VersionHistories, findings: Findings, now: datetime) -> TransitionWrite | None:
    """What follows from the gate."""
    version = to_judge(histories)
    if version is None or findings.gate is None or findings.gate[0] != version.version:
        return None
    result = findings.gate[1]
    after = {"passed": VersionState.GATED, "rejected": VersionState.REJECTED, "inconclusive": VersionState.INCONCLUSIVE}[result.outcome]
    return histories.transition(version, after, ACTOR, result.reason, now, evidence=result.evidence, canary_prompts=result.canary_prompts)


def _begun(histories: VersionHistories, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    """The next version's turn, oldest first, where none is tried."""
    waiting = histories.in_state(VersionState.GATED)
    return _onward(histories, waiting[0], promotion, "its turn", now) if waiting and histories.challenger is None else None


def _onward(histories: VersionHistories, version: RegisteredVersion, promotion: PromotionSettings, reason: str, now: datetime, **facts: Any) -> TransitionWrite:
    stage = stage_after(version.state, promotion)
    if stage is VersionState.CHAMPION:
        return promote(histories, version, ACTOR, reason, now, **facts)
    last = version.transitions[-1]
    if stage is VersionState.APPROVAL and version.state is VersionState.CANARY:  # the same users go on, and their figures with them
        experiment, share = last.experiment, last.share
    else:
        experiment = derive("experiment", version.name, version.version, version.digest, last.seq + 1)
        share = {VersionState.SHADOW: promotion.shadow_share, VersionState.CANARY: promotion.canary_share}.get(stage, 0.0)
    return histories.transition(version, stage, ACTOR, reason, now, experiment=experiment, share=share, **facts)
