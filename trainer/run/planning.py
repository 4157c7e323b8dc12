"""Planning: whether a snapshot is worth a run, and why or why not, before anything slow is loaded.

A run trains nothing, and says why, where it finds too few trajectories, too few users behind them, a flood from a few, one kind of task
alone, or too few held-out users to judge by. SFT always comes before RL, because RL's KL anchor is the SFT policy; where no outcome of a
training user has history, or `rl.steps` is 0, the run is SFT alone. Trajectories missing while outcomes abound is a teacher's problem,
not a reason for RL without SFT.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.settings import Settings
from trainer.data.snapshot import Snapshot


@dataclass(frozen=True)
class Plan:
    """What a run would do with a snapshot, and why."""

    train: bool
    reason: str


def plan(snapshot: Snapshot, settings: Settings) -> Plan:
    """Whether there is enough to train on and to judge by."""
    refusal = _too_little(snapshot, settings) or _too_few_judges(snapshot, settings)
    if refusal:
        return Plan(False, refusal)
    counts = snapshot.counts
    stages = "SFT and RL" if settings.trainer.rl.steps and counts["training_outcomes"] else "SFT alone"
    reason = f"{stages} on {counts['lessons']} trajectories ({counts['replayed']} replayed) and {counts['training_outcomes']} outcomes"
    return Plan(True, f"{reason} of {counts['training_users']} users" + _narrowing(snapshot, settings))


def _too_little(snapshot: Snapshot, settings: Settings) -> str | None:
    trainer, counts = settings.trainer, snapshot.counts
    found, needed = counts["lessons"], trainer.min_trajectories
    flood = counts.get("trajectories.over_user_share", 0)
    if found < needed <= found + flood:
        reason = f"a flood from a few users: {found} of {found + flood} usable trajectories are left once no user makes up more than"
        return f"{reason} trainer.user_share {trainer.user_share:g}, trainer.min_trajectories is {needed}"
    if found < needed:
        return f"{found} usable trajectories of training users, trainer.min_trajectories is {needed}" + _left_out(snapshot, settings)
    if counts["lesson_users"] < trainer.min_users:
        return f"{found} trajectories of only {counts['lesson_users']} users, trainer.min_users is {trainer.min_users}"
    if counts["lesson_domains"] < trainer.min_domains:
        reason = f"trajectories of {counts['lesson_domains']} domain only, trainer.min_domains is {trainer.min_domains}"
        return f"{reason}; a platform with fewer kinds of task sets it to their number"
    return None


def _too_few_judges(snapshot: Snapshot, settings: Settings) -> str | None:
    needed = settings.trainer.min_heldout_users
    if snapshot.heldout_users >= needed:
        return None
    return f"{snapshot.heldout_users} held-out users with outcomes, trainer.min_heldout_users is {needed}" + _narrowing(snapshot, settings)


def _left_out(snapshot: Snapshot, settings: Settings) -> str:
    older = snapshot.counts.get("trajectories.replay_left_out", 0)
    if not older:
        return ""
    return f"; {older} more are the parent's already, which trainer.replay_share {settings.trainer.replay_share:g} limits (1: all of them again)"


def _narrowing(snapshot: Snapshot, settings: Settings) -> str:
    share = settings.trainer.holdout_share
    if snapshot.judged_share >= share:
        return ""
    return f"; judged by users below {snapshot.judged_share:g} only, not trainer.holdout_share {share:g}: an ancestor may have trained on the others"
