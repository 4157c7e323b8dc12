"""Triggers: why a run begins, as values that the dry run, the log and the report show. Pure.

- by hand: always;
- unfinished: a run was cut short and may go on;
- new outcomes: `trainer.new_outcomes` records since the newest version or the last attempt;
- schedule: `trainer.every_s` since then, where at least `trainer.min_trajectories` trajectories are new;
- drift: answers of the version that serves score lower than they did when it began to.

Counts are of offsets: where writers use transactions, their markers count too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from statistics import fmean
from typing import NamedTuple

from infra.settings import Trainer
from schemas.outcomes import Outcome
from schemas.scoring import score
from trainer.cases import Unusable, case_of

#: One-sided, 1 %: every window is one more chance for a false alarm. 1.5 % of 400 simulated pairs without a fall raised one, at `drift_drop` 0
#: (200 answers of 40 users who differ, 2026-11-21); a fall of 0.15 was seen in 84 %.
Z = 2.33


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


def new_outcomes(new: int, trainer: Trainer) -> Trigger:
    numbers = {"new": new, "needed": trainer.new_outcomes}
    if not trainer.new_outcomes:
        return Trigger(TriggerKind.NEW_OUTCOMES, False, "trainer.new_outcomes is 0: never", numbers)
    return Trigger(TriggerKind.NEW_OUTCOMES, new >= trainer.new_outcomes, f"{new} new outcomes, trainer.new_outcomes is {trainer.new_outcomes}", numbers)


def schedule(since_s: float | None, new_trajectories: int, trainer: Trainer) -> Trigger:
    """`since_s`: seconds since the newest version or the last attempt; None where there was neither."""
    numbers = {"since_s": round(since_s or 0.0, 1), "every_s": trainer.every_s, "new": new_trajectories, "needed": trainer.min_trajectories}
    enough, due = new_trajectories >= trainer.min_trajectories, since_s is None or since_s >= trainer.every_s
    when = "nothing was trained yet" if since_s is None else f"{since_s:.0f} s since the last, trainer.every_s is {trainer.every_s:g}"
    reason = f"{when}; {new_trajectories} new trajectories, trainer.min_trajectories is {trainer.min_trajectories}"
    return Trigger(TriggerKind.SCHEDULE, due and enough, reason, numbers)


class Scored(NamedTuple):
    """How good one answer was. `score` is evaluation's own, in [0, 1]."""

    user: str
    domain: str
    score: float


class Rewards:
    """Scores of one version's answers: the first window after it began to serve, and the latest whole one after that.

    Windows do not overlap, so that each answer counts once; memory is two windows and the one that fills.
    """

    def __init__(self, version: str | None, window: int) -> None:
        self.version = version
        self.first: list[Scored] = []
        self.recent: Sequence[Scored] = ()
        self._filling: list[Scored] = []
        self._window = window

    def add(self, outcome: Outcome) -> None:
        """Count an outcome in, if this version answered it and its truth can be scored."""
        model, case = outcome.response.provenance.model, case_of(outcome)
        if isinstance(case, Unusable) or model is None or model.version != self.version:
            return
        scored = Scored(case.user, case.domain, score(case.task, outcome.response.answer, case.truth, case.query.options))
        if len(self.first) < self._window:
            self.first.append(scored)
            return
        self._filling.append(scored)
        if len(self._filling) == self._window:
            self.recent, self._filling = self._filling, []

    def forget_recent(self) -> None:
        """Let only answers from now on raise the next alarm."""
        self.recent, self._filling = (), []


def drift(rewards: Rewards, trainer: Trainer) -> Trigger:
    """Whether the latest window scores lower than the first: by at least `trainer.drift_drop`, and more than chance explains.

    Compared domain by domain, weighted as the latest window has them, so that other questions are no drift. The standard error is over
    users, because answers of one are not independent: each user's influence on the difference, both windows together.
    """
    numbers: dict[str, float] = {"window": trainer.drift_window, "needed": trainer.drift_drop, "seen": len(rewards.first)}
    if not rewards.recent:
        return Trigger(TriggerKind.DRIFT, False, f"no whole window of {trainer.drift_window} answers to compare with the first", numbers)
    first, recent = _by_domain(rewards.first), _by_domain(rewards.recent)
    shared = first.keys() & recent.keys()
    answers = sum(len(recent[domain]) for domain in shared)
    drop, influence = 0.0, defaultdict[str, float](float)
    for domain in sorted(shared):
        weight = len(recent[domain]) / answers
        for window, sign in ((first[domain], 1.0), (recent[domain], -1.0)):
            mean = fmean(one.score for one in window)
            drop += sign * weight * mean
            for one in window:
                influence[one.user] += sign * weight * (one.score - mean) / len(window)
    users = len(influence)
    numbers["users"] = users
    if users < max(2, trainer.min_users):
        return Trigger(TriggerKind.DRIFT, False, f"answers to {users} users only, trainer.min_users is {trainer.min_users}", numbers)
    error = sqrt(users / (users - 1) * sum(value**2 for value in influence.values()))
    numbers |= {"drop": round(drop, 4), "standard_error": round(error, 4)}
    reason = f"scores fell by {drop:.3f} (standard error {error:.3f}) since version {rewards.version} began, trainer.drift_drop is {trainer.drift_drop:g}"
    return Trigger(TriggerKind.DRIFT, drop >= trainer.drift_drop and drop > Z * error, reason, numbers)


def _by_domain(window: Sequence[Scored]) -> dict[str, list[Scored]]:
    domains: dict[str, list[Scored]] = defaultdict(list)
    for one in window:
        domains[one.domain].append(one)
    return domains
