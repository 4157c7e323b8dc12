"""The state machine: from histories and findings to the next registry write, or none. No I/O; `promoter` writes.

`settle` comes first: it completes the history of a replaced champion, and voids comparisons with a former champion. Then `advance` acts on the findings,
one transition at a time. `operator_commands` makes the writes of operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from infra.registry.client import RegisteredVersion
from infra.settings.promotion import PromotionSettings
from schemas.gate import GateResult
from schemas.ids import derive
from schemas.model_events import Alias
from schemas.promotion import CHALLENGING, VersionState
from schemas.promotion_view import VerdictOutcome
from trainer.promotion.verdict import ExperimentVerdict
from trainer.promotion.version_history import TransitionWrite, VersionHistories

#: Actor of a transition without an operator.
ACTOR = "promoter"
#: Maximum number of new experiments for a version whose answers are not counted.
TRIES = 3
ADOPTED = "serves already; from before transitions were recorded"
#: The stages up to the champion, in order.
STAGES = (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.APPROVAL, VersionState.CHAMPION)


@dataclass(frozen=True)
class Findings:
    """Input of one pass besides the histories."""

    gate: tuple[str, GateResult] | None = None  # the version judged against the present champion, and the result
    verdict: ExperimentVerdict | None = None  # about the challenger; None if figures are not current
    refused: Mapping[str, str] = field(default_factory=dict)  # versions that a worker refuses, with its reason
    uncounted_s: float | None = None  # seconds since an answer of the experiment was counted, if too long for a verdict


def settle(histories: VersionHistories, now: datetime) -> TransitionWrite | None:
    """The next write that makes the histories agree with one another, or None if they do."""
    for version in histories.versions:
        if version.state is VersionState.CHAMPION and version is not histories.champion:
            handover, successor = histories.successor(version)
            how = "rolled back, in favour of" if handover.rolls_back else "gave way to"
            reason = f"{how} version {successor.version}: {handover.reason}"
            return histories.transition(version, histories.state(version), handover.actor, reason, now)
    if histories.champion is None:
        aliased = next((version for version in histories.versions if Alias.CHAMPION in version.aliases), None)
        return first_champion(histories, aliased, ACTOR, ADOPTED, now) if aliased else None
    for version in histories.versions:
        if version.state in (VersionState.GATED, *CHALLENGING) and histories.is_stale(version):
            reason = f"was compared with a former champion; now it is version {histories.champion.version}"
            return histories.transition(version, VersionState.REGISTERED, ACTOR, reason, now)
    return None


def first_champion(histories: VersionHistories, version: RegisteredVersion, actor: str, reason: str, now: datetime) -> TransitionWrite | None:
    """The next write that makes `version` the very first champion, which is not compared with another."""
    if version.state is VersionState.REGISTERED:
        return histories.transition(version, VersionState.GATED, actor, reason, now)
    return histories.transition(version, VersionState.CHAMPION, actor, reason, now) if version.state is VersionState.GATED else None


def to_judge(histories: VersionHistories) -> RegisteredVersion | None:
    """The oldest registered version, which is next at the gate. Versions older than the first champion are never judged."""
    if not histories.handovers:
        return None
    first = int(histories.handovers[0][1].version)
    return next((version for version in histories.in_state(VersionState.REGISTERED) if int(version.version) > first), None)


def advance(histories: VersionHistories, findings: Findings, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    """The next write on settled histories, or None. Harm comes before everything that can wait."""
    if histories.champion is None:
        return None
    return (
        _roll_back_refused(histories, findings, promotion, now)
        or _advance_challenger(histories, findings, promotion, now)
        or _apply_gate(histories, findings, now)
        or _start_next(histories, promotion, now)
    )


def promote(histories: VersionHistories, version: RegisteredVersion, actor: str, reason: str, now: datetime, **facts: Any) -> TransitionWrite:
    """The one write that makes `version` champion and retires the present champion; with `rolls_back=True` it rejects the present one."""
    assert histories.champion is not None
    return histories.transition(version, VersionState.CHAMPION, actor, reason, now, replaces=histories.champion.version, **facts)


def stage_after(state: VersionState, promotion: PromotionSettings) -> VersionState:
    """The next stage that the settings do not leave out."""
    is_left_out = {
        VersionState.SHADOW: promotion.shadow_answers == 0,
        VersionState.CANARY: promotion.canary_answers == 0,
        VersionState.APPROVAL: promotion.approval == "automatic",
    }
    return next(stage for stage in STAGES[STAGES.index(state) + 1 :] if not is_left_out.get(stage))


def _roll_back_refused(histories: VersionHistories, findings: Findings, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    champion = histories.champion
    if champion is None or champion.version not in findings.refused or not promotion.rollback_on_refusal:
        return None
    target = next((version for version in histories.former if version.version not in findings.refused), None)
    reason = f"a worker refuses version {champion.version}: {findings.refused[champion.version]}"
    return promote(histories, target, ACTOR, reason, now, rolls_back=True) if target else None


def _advance_challenger(histories: VersionHistories, findings: Findings, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    version = histories.challenger
    if version is None:
        return None
    if version.version in findings.refused:
        return histories.transition(version, VersionState.REJECTED, ACTOR, f"a worker refuses it: {findings.refused[version.version]}", now)
    verdict = findings.verdict
    facts = {"evidence": verdict.evidence} if verdict else {}
    if verdict and verdict.outcome is VerdictOutcome.HARMFUL:
        return histories.transition(version, VersionState.REJECTED, ACTOR, verdict.reason, now, **facts)
    if findings.uncounted_s is not None:
        return _retry_uncounted(histories, version, findings.uncounted_s, now)
    if version.state is VersionState.APPROVAL:
        is_better = verdict is not None and verdict.outcome is VerdictOutcome.BETTER
        had_no_canary = not version.transitions[-1].share and not promotion.canary_answers  # so no figures will come
        if promotion.approval == "person" or not (is_better or had_no_canary):
            return None
        return promote(histories, version, ACTOR, "approval is automatic now", now, **facts)
    if verdict is None or verdict.outcome is VerdictOutcome.RUNNING:
        return None
    if verdict.outcome is VerdictOutcome.INCONCLUSIVE:
        return histories.transition(version, VersionState.INCONCLUSIVE, ACTOR, verdict.reason, now, **facts)
    return _next_stage(histories, version, promotion, verdict.reason, now, **facts)


def _retry_uncounted(histories: VersionHistories, version: RegisteredVersion, uncounted_s: float, now: datetime) -> TransitionWrite:
    """Back to registered, for a new experiment; after TRIES times inconclusive."""
    tries = sum("uncounted_s" in step.evidence for step in version.transitions)
    after = VersionState.INCONCLUSIVE if tries >= TRIES and version.state is not VersionState.APPROVAL else VersionState.REGISTERED
    reason = f"no answer of its experiment was counted for {uncounted_s / 3600:.1f} hours" + (f"; it was tried again {tries} times" if tries else "")
    return histories.transition(version, after, ACTOR, reason, now, evidence={"uncounted_s": round(uncounted_s, 1)})


def _apply_gate(histories: VersionHistories, findings: Findings, now: datetime) -> TransitionWrite | None:
    version = to_judge(histories)
    if version is None or findings.gate is None or findings.gate[0] != version.version:
        return None
    result = findings.gate[1]
    after = {"passed": VersionState.GATED, "rejected": VersionState.REJECTED, "inconclusive": VersionState.INCONCLUSIVE}[result.outcome]
    return histories.transition(version, after, ACTOR, result.reason, now, evidence=result.evidence, canary_prompts=result.canary_prompts)


def _start_next(histories: VersionHistories, promotion: PromotionSettings, now: datetime) -> TransitionWrite | None:
    """Start the oldest gated version if there is no challenger."""
    waiting = histories.in_state(VersionState.GATED)
    return _next_stage(histories, waiting[0], promotion, "its turn", now) if waiting and histories.challenger is None else None


def _next_stage(
    histories: VersionHistories, version: RegisteredVersion, promotion: PromotionSettings, reason: str, now: datetime, **facts: Any
) -> TransitionWrite:
    stage = stage_after(version.state, promotion)
    if stage is VersionState.CHAMPION:
        return promote(histories, version, ACTOR, reason, now, **facts)
    last = version.transitions[-1]
    if stage is VersionState.APPROVAL and version.state is VersionState.CANARY:  # the same users and their figures continue
        experiment, share = last.experiment, last.share
    else:
        experiment = derive("experiment", version.name, version.version, version.digest, last.seq + 1)
        share = {VersionState.SHADOW: promotion.shadow_share, VersionState.CANARY: promotion.canary_share}.get(stage, 0.0)
    return histories.transition(version, stage, ACTOR, reason, now, experiment=experiment, share=share, **facts)
