"""Triggers: why a run begins, as values that the dry run, the log and the report show. Pure.

- by hand: always;
- unfinished: a run was cut short and may go on;
- new outcomes: `trainer.new_outcomes` records since the newest version or the last attempt;
- schedule: `trainer.every_s` since then, where at least `trainer.min_trajectories` trajectories are new;
- drift: answers of the version that serves score lower than they did when it began to, by the figures of online quality.

Counts are of offsets: where writers use transactions, their markers count too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from math import sqrt

from infra.settings import TrainerSettings
from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality, Span

#: One-sided, 1 %: every block is one more chance for a false alarm. At `drift_drop` 0, with 200 answers of 40 users who differ, over ten windows, 0.8 %
#: of 1,000 simulated pairs without a fall raised one where the same users came again and 3.7 % where all were others; a fall of 0.15 was seen in 78 %
#: (2026-11-21).
Z = 2.33


#: Whose answers a champion is judged by: those to everybody, and to the group that a canary is compared with.
SHOWN = frozenset({Arm.CHAMPION, Arm.BASELINE})


class TriggerKind(StrEnum):
    BY_HAND = "by_hand"
    UNFINISHED = "unfinished"
    NEW_OUTCOMES = "new_outcomes"
    SCHEDULE = "schedule"
    DRIFT = "drift"


@dataclass(frozen=True)
class Trigger:
    """One decision, with the numbers it rests on."""

    kind: TriggerKind
    fired: bool
    reason: str
    numbers: Mapping[str, float]


BY_HAND = Trigger(TriggerKind.BY_HAND, True, "asked for by hand", {})


def unfinished(runs: Sequence[str]) -> Trigger:
    return Trigger(TriggerKind.UNFINISHED, bool(runs), f"cut short: {', '.join(runs) or 'no run'}", {"runs": len(runs)})


def new_outcomes(new: int, trainer: TrainerSettings) -> Trigger:
    numbers = {"new": new, "needed": trainer.new_outcomes}
    if not trainer.new_outcomes:
        return Trigger(TriggerKind.NEW_OUTCOMES, False, "trainer.new_outcomes is 0: never", numbers)
    return Trigger(TriggerKind.NEW_OUTCOMES, new >= trainer.new_outcomes, f"{new} new outcomes, trainer.new_outcomes is {trainer.new_outcomes}", numbers)


def schedule(since_s: float | None, new_trajectories: int, trainer: TrainerSettings) -> Trigger:
    """`since_s`: seconds since the newest version or the last attempt; None where there was neither."""
    numbers = {"since_s": round(since_s or 0.0, 1), "every_s": trainer.every_s, "new": new_trajectories, "needed": trainer.min_trajectories}
    enough, due = new_trajectories >= trainer.min_trajectories, since_s is None or since_s >= trainer.every_s
    when = "nothing was trained yet" if since_s is None else f"{since_s:.0f} s since the last, trainer.every_s is {trainer.every_s:g}"
    reason = f"{when}; {new_trajectories} new trajectories, trainer.min_trajectories is {trainer.min_trajectories}"
    return Trigger(TriggerKind.SCHEDULE, due and enough, reason, numbers)


Block = dict[str | None, Moments]  # rewards by domain, and of all together under None


class Rewards:
    """Rewards of one version's answers, from the windows of online quality: the first `answers` after it began to serve, and the latest so many after those.

    Blocks are made of whole windows, so that each answer counts in one. A window is added when it is settled, two windows after its end: what online
    quality learns of it later, as after an outage, is left out. Memory is two blocks, the one that fills, and the windows that are not settled.
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
        """Note a window of this version's as it is known now, if it began after the version did and users were shown its answers as the champion's."""
        if cell.span is Span.WINDOW and cell.version == self.version and cell.arm in SHOWN and cell.started_at >= self._settled:
            self._open[cell.started_at, cell.arm, cell.partition, cell.domain] = cell

    def settle(self) -> None:
        """Add the windows that are settled, oldest first."""
        newest = max((cell.ended_at for cell in self._open.values()), default=self._settled)
        for started in sorted({cell.started_at for cell in self._open.values() if cell.ended_at + 2 * (cell.ended_at - cell.started_at) <= newest}):
            for place in [place for place in self._open if place[0] == started]:
                cell = self._open.pop(place)
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
        """Let only windows that are not over yet raise the next alarm."""
        self._settled = max((cell.ended_at for cell in self._open.values()), default=self._settled)
        self._open.clear()
        self.recent, self._filling = {}, {} if self.first else self._filling


def drift(rewards: Rewards, trainer: TrainerSettings) -> Trigger:
    """Whether the latest answers score lower than the first: by at least `trainer.drift_drop`, and more than chance explains.

    Compared domain by domain, weighted as the latest have them, so that other questions are no drift. Errors are over users, because answers of one are
    not independent; one who comes in several windows counts as several, since windows name nobody.
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
