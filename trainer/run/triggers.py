"""Triggers: reasons to start a training run, as values for the dry run, the log and the report. Pure.

- by hand: always;
- unfinished: a run was interrupted and may be resumed;
- new outcomes: `trainer.new_outcomes` records since the newest version or the last attempt;
- schedule: `trainer.every_s` since then, if at least `trainer.min_trajectories` trajectories are new;
- drift: answers of the serving version score lower than when it began to serve, by the figures of online quality.

Counts are of offsets, so markers of transactions count too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import sqrt

from infra.settings.training import TrainerSettings
from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality, Span
from schemas.run_report import Trigger, TriggerKind

#: Critical value of the one-sided 1 % level, because every new block is one more chance for a false alarm. Simulated with 1,000 pairs without a drop, at
#: `drift_drop` 0, with 200 answers of 40 different users over ten windows: false alarms in 0.8 % if both blocks had the same users, 3.7 % if none was in both.
#: A drop of 0.15 was detected in 78 % (2026-11-21).
Z = 2.33
#: Arms whose answers judge the champion: `baseline` is the control group of a canary, `champion` are all other users with its answers.
CHAMPION_ARMS = frozenset({Arm.CHAMPION, Arm.BASELINE})

BY_HAND = Trigger(TriggerKind.BY_HAND, True, "asked for by hand", {})


def unfinished(run_ids: Sequence[str]) -> Trigger:
    return Trigger(TriggerKind.UNFINISHED, bool(run_ids), f"unfinished runs: {', '.join(run_ids) or 'none'}", {"runs": len(run_ids)})


def new_outcomes(new: int, trainer: TrainerSettings) -> Trigger:
    numbers = {"new": new, "needed": trainer.new_outcomes}
    if not trainer.new_outcomes:
        return Trigger(TriggerKind.NEW_OUTCOMES, False, "trainer.new_outcomes is 0: never", numbers)
    return Trigger(TriggerKind.NEW_OUTCOMES, new >= trainer.new_outcomes, f"{new} new outcomes, trainer.new_outcomes is {trainer.new_outcomes}", numbers)


def schedule(since_s: float | None, new_trajectories: int, trainer: TrainerSettings) -> Trigger:
    """`since_s`: seconds since the newest version or the last attempt, whichever is later; None if there was neither."""
    numbers = {"since_s": round(since_s or 0.0, 1), "every_s": trainer.every_s, "new": new_trajectories, "needed": trainer.min_trajectories}
    is_enough, is_due = new_trajectories >= trainer.min_trajectories, since_s is None or since_s >= trainer.every_s
    when = "nothing was trained yet" if since_s is None else f"{since_s:.0f} s since the last, trainer.every_s is {trainer.every_s:g}"
    reason = f"{when}; {new_trajectories} new trajectories, trainer.min_trajectories is {trainer.min_trajectories}"
    return Trigger(TriggerKind.SCHEDULE, is_due and is_enough, reason, numbers)


#: Rewards by domain; of all domains together under None.
Block = dict[str | None, Moments]


class RewardBlocks:
    """Rewards of one version's answers, from the windows of online quality: the first `answers` after it began to serve, and the latest `answers` since.

    A block consists of whole windows, so that each answer counts in one block. A window is added two windows after its end; figures that online quality
    computes later, as after an outage, are left out. Keeps two blocks, the block that is being filled, and the open windows.
    """

    def __init__(self, version: str | None, answers: int, since: datetime | None = None) -> None:
        self.version, self.since = version, since
        self.first: Block = {}
        self.recent: Block = {}
        self._filling: Block = {}
        self._answers = answers
        self._open: dict[tuple[datetime, Arm, int, str | None], Quality] = {}
        self._settled = since or datetime.min.replace(tzinfo=UTC)

    def add(self, cell: Quality) -> None:
        """Keeps the newest figures of a window, if its answers came from this version as champion, and began after it did."""
        if cell.span is Span.WINDOW and cell.version == self.version and cell.arm in CHAMPION_ARMS and cell.started_at >= self._settled:
            self._open[cell.started_at, cell.arm, cell.partition, cell.domain] = cell

    def settle(self) -> None:
        """Adds the windows that are final, oldest first."""
        newest = max((cell.ended_at for cell in self._open.values()), default=self._settled)
        for started_at in sorted({cell.started_at for cell in self._open.values() if cell.ended_at + 2 * (cell.ended_at - cell.started_at) <= newest}):
            for key in [key for key in self._open if key[0] == started_at]:
                cell = self._open.pop(key)
                self._filling[cell.domain] = self._filling.get(cell.domain, Moments()) + cell.metrics.get(Metric.REWARD, Moments())
                self._settled = max(self._settled, cell.ended_at)
            if _answers(self._filling) < self._answers:
                continue
            if self.first:
                self.recent = self._filling
            else:
                self.first = self._filling
            self._filling = {}

    def forget_recent(self) -> None:
        """Drop the recent answers: only later windows can raise the next alarm."""
        self._settled = max((cell.ended_at for cell in self._open.values()), default=self._settled)
        self._open.clear()
        self.recent, self._filling = {}, {} if self.first else self._filling


def drift(rewards: RewardBlocks, trainer: TrainerSettings) -> Trigger:
    """Whether the latest answers score lower than the first: by at least `trainer.drift_drop`, and more than chance explains.

    Compared domain by domain, with the latest answers' weights, so that a new mix of questions is no drift. Errors are over users, because answers of one
    user are not independent. A user in several windows counts several times, because windows hold no user ids.
    """
    first, recent = rewards.first, rewards.recent
    numbers: dict[str, float] = {"window": trainer.drift_window, "needed": trainer.drift_drop, "seen": _answers(first)}
    if not recent:
        return Trigger(TriggerKind.DRIFT, False, f"no {trainer.drift_window} answers to compare with the first", numbers)
    users = min(first[None].users, recent[None].users)
    numbers["users"] = users
    if users < max(2, trainer.min_users):
        return Trigger(TriggerKind.DRIFT, False, f"answers to {users} users only, trainer.min_users is {trainer.min_users}", numbers)
    shared = [domain for domain in first.keys() & recent.keys() if domain is not None and min(first[domain].users, recent[domain].users) > 1]
    answers = sum(recent[domain].n for domain in shared)
    if not answers:
        return Trigger(TriggerKind.DRIFT, False, "no domain of the first answers is among the latest", numbers)
    weights = {domain: recent[domain].n / answers for domain in sorted(shared)}
    drop = sum(weight * (first[domain].mean - recent[domain].mean) for domain, weight in weights.items())
    error = sqrt(sum(weight**2 * (first[domain].variance + recent[domain].variance) for domain, weight in weights.items()))
    numbers |= {"drop": round(drop, 4), "standard_error": round(error, 4)}
    reason = f"scores fell by {drop:.3f} (standard error {error:.3f}) since version {rewards.version} began, trainer.drift_drop is {trainer.drift_drop:g}"
    return Trigger(TriggerKind.DRIFT, drop >= trainer.drift_drop and drop > Z * error, reason, numbers)


def _answers(block: Block) -> int:
    return block[None].n if None in block else 0
