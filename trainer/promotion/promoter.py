"""The promoter: each pass makes registry and histories agree, and then writes at most one transition (`state_machine`).

A transition is one tag. The aliases follow it, then the events. After a kill between two of these, the next pass of any process completes them. All
methods run in one thread; only `state` may be read from others. The caller holds the promoter's lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion
from infra.settings.promotion import PromotionSettings
from infra.telemetry.metrics import PROMOTION_TRANSITIONS
from schemas.gate import GateResult
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import Transition, VersionState
from schemas.promotion_view import VerdictOutcome, VersionTransition
from schemas.quality import Quality
from schemas.serving import ServingReport
from trainer.promotion import state_machine
from trainer.promotion.announcement import event_of
from trainer.promotion.operator_commands import OperatorCommand, registry_write
from trainer.promotion.state_machine import Findings
from trainer.promotion.verdict import ExperimentVerdict, canary_verdict, shadow_verdict
from trainer.promotion.version_history import TransitionWrite, VersionHistories

log = logging.getLogger(__name__)

#: Maximum age of a worker's report. Workers report every few seconds.
REPORT_S = 60.0
#: An experiment without a counted answer for this long gets no verdict. Online quality drops it after two days and counts no later answer of it.
UNCOUNTED_S = 129_600.0


class PromotionRegistry(Protocol):
    """The methods of `infra.registry.client.Registry` that the promoter uses."""

    def versions(self) -> list[RegisteredVersion]: ...
    def get(self, version: str) -> RegisteredVersion: ...
    def record(self, version: str, transition: Transition) -> None: ...
    def set_alias(self, alias: Alias, version: str) -> None: ...
    def remove_alias(self, alias: Alias) -> None: ...


@dataclass(frozen=True)
class Observations:
    """Online quality and the workers' serving reports at one moment, read from topics."""

    is_current: bool = False
    experiment: UUID | None = None
    cells: Sequence[Quality] = ()  # of that experiment
    windows: Sequence[Quality] = ()  # of versions
    comparisons: Sequence[Quality] = ()  # of strategies
    strategy_windows: Sequence[Quality] = ()  # of strategies other than RPO
    reports: Sequence[ServingReport] = ()  # the last of each worker


class TopicObserver(Protocol):
    def observe(self, experiment: UUID | None) -> Observations:
        """The newest observations. The cells follow a new `experiment` a little later. Does not block."""


class GateJudge(Protocol):
    """Judges versions offline."""

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        """The result of judging `version` against `champion`, or None until there is one. Does not block. Stops any other judging."""


@dataclass(frozen=True)
class PromoterState:
    """Histories, observations and verdict of the last pass."""

    histories: VersionHistories
    observations: Observations = field(default_factory=Observations)
    verdict: ExperimentVerdict | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Promoter:
    """Its state can be rebuilt from the registry, except for which events were published."""

    def __init__(
        self,
        registry: PromotionRegistry,
        promotion: PromotionSettings,
        *,
        announce: Callable[[ModelEvent], None],
        feed: TopicObserver | None = None,
        gates: GateJudge | None = None,
        check_lease: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Without `feed` there are no figures, as without a broker; without `gates` no version is judged. `check_lease` is called before each write."""
        self._registry, self._promotion, self._feed, self._gates = registry, promotion, feed, gates
        self._announce, self._clock, self._check_lease = announce, clock, check_lease
        self._announced: dict[str, int] = {}
        self._unreadable: dict[str, str] = {}  # versions whose history cannot be read, with the reason; logged when it changes
        self.state: PromoterState | None = None

    def reconcile(self) -> bool:
        """One pass. Returns whether it wrote a transition; then another pass may follow.

        Raises RetryLater if the registry does not answer, CannotContinue if another process writes or the lease is lost.
        """
        self._check_lease()
        histories = self._settle(self._read())
        now = self._clock()
        observations = self._feed.observe(histories.experiment) if self._feed else Observations()
        verdict = verdict_of(histories, observations, self._promotion, now)
        self.state = PromoterState(histories, observations, verdict)
        candidate = state_machine.to_judge(histories)
        result = self._gates.judge(candidate, histories.champion) if self._gates else None
        gate = (candidate.version, result) if candidate and result else None
        refused = refusals(histories, observations.reports, now)
        findings = Findings(gate, verdict, refused, uncounted_s(histories, observations, verdict, now))
        write = state_machine.advance(histories, findings, self._promotion, now)
        if write:
            self._apply(histories, write)
        return write is not None

    def execute(self, command: OperatorCommand) -> VersionTransition:
        """Execute an operator command. Raises CommandRefused, and what `reconcile` raises."""
        histories = self._settle(self._read())
        write = registry_write(histories, command, self._clock())
        self._apply(histories, write)
        return VersionTransition.of(write.version, write.transition)

    def _read(self) -> VersionHistories:
        versions = self._registry.versions()
        reasons = {version.version: reason for version in versions if (reason := version.unreadable)}
        if reasons != self._unreadable:
            log.warning("versions with an unreadable history wait", extra={"reasons": reasons})
        self._unreadable = reasons
        return VersionHistories.of(versions)

    def _apply(self, histories: VersionHistories, write: TransitionWrite) -> None:
        histories = self._settle(self._write(histories, write))
        self.state = replace(self.state, histories=histories, verdict=None, at=datetime.now(UTC)) if self.state else PromoterState(histories)

    def _settle(self, histories: VersionHistories) -> VersionHistories:
        """Make registry and histories agree, and announce every transition."""
        while write := state_machine.settle(histories, self._clock()):
            histories = self._write(histories, write)
        histories = self._move_aliases(histories)
        for version in histories.versions:
            for transition in version.transitions[self._announced.get(version.version, 0) :]:
                self._announce(event_of(version, transition))
            self._announced[version.version] = len(version.transitions)
        return histories

    def _write(self, histories: VersionHistories, write: TransitionWrite) -> VersionHistories:
        transition = write.transition
        for number in (write.version, transition.replaces):
            read = histories.get(number) if number else None
            if read and self._registry.get(read.version).history != read.history:
                raise CannotContinue(f"the history of version {read.version} was changed by another process: only one promoter may run")
        self._check_lease()
        self._registry.record(write.version, transition)
        facts = transition.model_dump(include={"before", "after", "seq", "actor", "reason"})
        log.info("transition", extra={"version": write.version, **facts})
        PROMOTION_TRANSITIONS.add(after=transition.after.value)
        return histories.replacing(self._registry.get(write.version))

    def _move_aliases(self, histories: VersionHistories) -> VersionHistories:
        """Aliases follow the histories; the champion's first, so that there always is one."""
        targets = {Alias.CHAMPION: histories.champion, Alias.CHALLENGER: histories.challenger}
        for alias, target in targets.items():
            named = [version.version for version in histories.versions if alias in version.aliases]
            if target is not None and named != [target.version]:
                self._check_lease()
                self._registry.set_alias(alias, target.version)
                log.info("alias moved", extra={"alias": str(alias), "version": target.version})
            elif target is None and named and alias is Alias.CHALLENGER:
                self._check_lease()
                self._registry.remove_alias(alias)
                log.info("alias removed", extra={"alias": str(alias), "version": named[0]})
        return histories.with_aliases(targets)


def verdict_of(histories: VersionHistories, observations: Observations, promotion: PromotionSettings, now: datetime) -> ExperimentVerdict | None:
    """The verdict about the challenger. None without a challenger, without figures that could decide, or if they are not current.

    The experiment's time runs until the newest counted answer of any version: without traffic, or while `quality` is down, no time limit is reached.
    """
    version = histories.challenger
    if version is None or not observations.is_current or histories.experiment is None or observations.experiment != histories.experiment:
        return None
    last = version.transitions[-1]
    counted_to = max((cell.ended_at for cell in (*observations.cells, *observations.windows)), default=last.at)
    since_s = max(0.0, (min(now, counted_to) - last.at).total_seconds())
    if last.after is VersionState.SHADOW:
        return shadow_verdict(observations.cells, promotion, since_s)
    return canary_verdict(observations.cells, promotion, since_s) if last.share > 0 else None


def uncounted_s(histories: VersionHistories, observations: Observations, verdict: ExperimentVerdict | None, now: datetime) -> float | None:
    """Seconds since an answer of the challenger's experiment was counted, if that is too long for a verdict; else None.

    In shadow this waits until other answers are counted, since users see no shadow answer. A decided verdict stays.
    """
    version = histories.challenger
    if version is None or verdict is None:
        return None
    last = version.transitions[-1]
    if last.after is not VersionState.APPROVAL and verdict.outcome not in (VerdictOutcome.RUNNING, VerdictOutcome.INCONCLUSIVE):
        return None
    if last.after is VersionState.SHADOW and not observations.windows:
        return None
    quiet_s = (now - max([last.at, *(cell.ended_at for cell in observations.cells)])).total_seconds()
    never_counted = not observations.cells and verdict.outcome is VerdictOutcome.INCONCLUSIVE
    return quiet_s if quiet_s > UNCOUNTED_S or never_counted else None


def refusals(histories: VersionHistories, reports: Sequence[ServingReport], now: datetime) -> Mapping[str, str]:
    """Versions that a worker refuses, with its reason. Ignores old reports, and refusals of other files under the same number."""
    reasons: dict[str, str] = {}
    for report in reports:
        for refusal in report.refused:
            version = histories.get(refusal.model.version)
            if version is None or version.digest != refusal.model.digest or not version.transitions:
                continue
            since = (version.transitions[-1].at, now - timedelta(seconds=REPORT_S))
            if report.at >= max(at for at in since if at <= now):  # after a clock is set back, transitions can lie in the future
                reasons.setdefault(version.version, f"{refusal.reason} ({report.worker})")
    return reasons
