"""The promoter: one look after another, each of which makes registry and logs agree and then takes at most one step (`machine`).

A step is one tag. Aliases follow it, then events; whoever is killed between two of these leaves something that the next look, in whichever process,
finds and completes. It runs in one thread, operators' wishes too; only `view` may be asked from others. The caller holds the promoter's lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion
from infra.settings import PromotionSettings
from infra.telemetry.metrics import PROMOTION_TRANSITIONS
from schemas.gate import GateResult
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import Transition, VersionState
from schemas.serving import ServingReport
from trainer.promotion import state_machine
from trainer.promotion.announcement import event_of
from trainer.promotion.feed import Observations, TopicObserver
from trainer.promotion.state_machine import Findings
from trainer.promotion.verdict import ExperimentVerdict, VerdictOutcome, canary_verdict, shadow_verdict
from trainer.promotion.version_history import TransitionWrite, VersionHistories

log = logging.getLogger(__name__)

#: What a worker said longer ago counts no more: it says it again every few seconds.
REPORT_S = 60.0
#: So long without an answer of its own an experiment says nothing any more. Online quality forgets it after two days, and counts no later answer of it.
UNCOUNTED_S = 129_600.0


class PromotionRegistry(Protocol):
    """What of `infra.registry.client.Registry` is needed."""

    def versions(self) -> list[RegisteredVersion]: ...
    def get(self, version: str) -> RegisteredVersion: ...
    def record(self, version: str, transition: Transition) -> None: ...
    def point(self, alias: Alias, version: str) -> None: ...
    def unpoint(self, alias: Alias) -> None: ...


class GateJudge(Protocol):
    """Who judges versions offline."""

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        """What came of judging `version` against `champion`, or None while that goes on. Returns at once; whatever else was being judged is stopped."""
        ...


@dataclass(frozen=True)
class PromoterState:
    """What the last look saw."""

    histories: VersionHistories
    seen: Observations = field(default_factory=Observations)
    verdict: ExperimentVerdict | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Promoter:
    """Holds no state that the registry does not hold too, but for which events went out."""

    def __init__(
        self,
        registry: PromotionRegistry,
        promotion: PromotionSettings,
        *,
        feed: TopicObserver,
        gates: GateJudge,
        announce: Callable[[ModelEvent], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry, self._promotion, self._feed, self._gates = registry, promotion, feed, gates
        self._announce, self._clock = announce, clock
        self._announced: dict[str, int] = {}
        self._unread: dict[str, str] = {}  # versions whose log cannot be read, and why; said when that changes
        self.state: PromoterState | None = None

    def reconcile(self) -> bool:
        """Whether a step was taken: then there may be another. Raises RetryLater where the registry does not answer, CannotContinue for a second writer."""
        histories = self._settle(self._read())
        now = self._clock()
        seen = self._feed.observe(histories.experiment)
        verdict = verdict_of(histories, seen, self._promotion, now)
        self.state = PromoterState(histories, seen, verdict)
        judged = state_machine.to_judge(histories)
        result = self._gates.judge(judged, histories.champion)
        gate = (judged.version, result) if judged and result else None
        findings = Findings(gate, verdict, refusals(histories, seen.reports, now), uncounted_s(histories, seen, verdict, now))
        step = state_machine.advance(histories, findings, self._promotion, now)
        if step:
            self._apply(histories, step)
        return step is not None

    def execute(self, wish: Callable[[VersionHistories, datetime], TransitionWrite]) -> dict[str, Any]:
        """Do what an operator asks (`wishes`) and return the transition as plain JSON values. Raises Refused, and what `look` raises."""
        histories = self._settle(self._read())
        step = wish(histories, self._clock())
        self._apply(histories, step)
        return {"version": step.version, **step.transition.model_dump(mode="json")}

    def _read(self) -> VersionHistories:
        versions = self._registry.versions()
        unread = {version.version: reason for version in versions if (reason := version.unreadable)}
        if unread != self._unread:
            log.warning("versions whose log cannot be read wait", extra={"reasons": unread})
        self._unread = unread
        return VersionHistories.of(versions)

    def _apply(self, histories: VersionHistories, step: TransitionWrite) -> None:
        histories = self._settle(self._write(histories, step))
        self.state = replace(self.state, histories=histories, verdict=None, at=datetime.now(UTC)) if self.state else PromoterState(histories)

    def _settle(self, histories: VersionHistories) -> VersionHistories:
        """Registry and logs agree afterwards, and every transition is announced."""
        while step := state_machine.settle(histories, self._clock()):
            histories = self._write(histories, step)
        histories = self._move_aliases(histories)
        for version in histories.versions:
            for transition in version.transitions[self._announced.get(version.version, 0) :]:
                self._announce(event_of(version, transition))
            self._announced[version.version] = len(version.transitions)
        return histories

    def _write(self, histories: VersionHistories, step: TransitionWrite) -> VersionHistories:
        for name in (step.version, step.transition.replaces):
            known = histories.get(name) if name else None
            if known and self._registry.get(known.version).transitions != known.transitions:
                raise CannotContinue(f"the log of version {known.version} changed under our hands: only one promoter may run")
        self._registry.record(step.version, step.transition)
        taken = step.transition
        told = {"version": step.version, "before": taken.before, "after": taken.after, "seq": taken.seq, "actor": taken.actor, "reason": taken.reason}
        log.info("transition", extra=told)
        PROMOTION_TRANSITIONS.add(after=taken.after.value)
        return histories.replacing(self._registry.get(step.version))

    def _move_aliases(self, histories: VersionHistories) -> VersionHistories:
        """Aliases follow the logs; the champion's first, so that there is always one."""
        meant = {Alias.CHAMPION: histories.champion, Alias.CHALLENGER: histories.challenger}
        for alias, version in meant.items():
            named = [found.version for found in histories.versions if alias in found.aliases]
            if version is not None and named != [version.version]:
                self._registry.point(alias, version.version)
                log.info("alias moved", extra={"alias": str(alias), "version": version.version})
            elif version is None and named and alias is Alias.CHALLENGER:
                self._registry.unpoint(alias)
                log.info("alias removed", extra={"alias": str(alias), "version": named[0]})
        return histories.naming(meant)


def verdict_of(histories: VersionHistories, seen: Observations, promotion: PromotionSettings, now: datetime) -> ExperimentVerdict | None:
    """About the version that is tried; None where none is, where no figures could tell, and where they are not current.

    Its time runs as far as answers are counted, its own or others': while nobody asks, or nobody counts, no time is up.
    """
    version = histories.challenger
    if version is None or not seen.is_current or histories.experiment is None or seen.experiment != histories.experiment:
        return None
    last = version.transitions[-1]
    counted_to = max((cell.ended_at for cell in (*seen.cells, *seen.windows)), default=last.at)
    since_s = max(0.0, (min(now, counted_to) - last.at).total_seconds())
    if last.after is VersionState.SHADOW:
        return shadow_verdict(seen.cells, promotion, since_s)
    return canary_verdict(seen.cells, promotion, since_s) if last.share > 0 else None


def uncounted_s(histories: VersionHistories, seen: Observations, verdict: ExperimentVerdict | None, now: datetime) -> float | None:
    """How long no answer of the challenger's experiment has been counted, where that is too long for a verdict; else None.

    In shadow that can wait for somebody's answers to be counted, since nobody is shown anything. What was decided by figures stays so.
    """
    version = histories.challenger
    if version is None or verdict is None:
        return None
    last = version.transitions[-1]
    if last.after is not VersionState.APPROVAL and verdict.outcome not in (VerdictOutcome.RUNNING, VerdictOutcome.INCONCLUSIVE):
        return None
    if last.after is VersionState.SHADOW and not seen.windows:
        return None
    quiet_s = (now - max([last.at, *(cell.ended_at for cell in seen.cells)])).total_seconds()
    never_counted = not seen.cells and verdict.outcome is VerdictOutcome.INCONCLUSIVE
    return quiet_s if quiet_s > UNCOUNTED_S or never_counted else None


def refusals(histories: VersionHistories, reports: Sequence[ServingReport], now: datetime) -> Mapping[str, str]:
    """Versions that a worker does not serve now, by its own word of late, with its reason. What it said of other files under the same number is no word."""
    told: dict[str, str] = {}
    for report in reports:
        for refusal in report.refused:
            version = histories.get(refusal.model.version)
            if version is None or version.digest != refusal.model.digest or not version.transitions:
                continue
            since = (version.transitions[-1].at, now - timedelta(seconds=REPORT_S))
            if report.at >= max(at for at in since if at <= now):  # a clock set right leaves steps ahead of now
                told.setdefault(version.version, f"{refusal.reason} ({report.worker})")
    return told
