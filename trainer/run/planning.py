"""Planning: whether a snapshot is worth a run, and the reason, before anything slow is loaded.

A run trains nothing if there are too few trajectories, too few users behind them, too many from a few users, only one kind of task, or too few held-out users
to judge by. SFT always precedes RL, because RL's KL reference is the SFT policy. The run is SFT alone if no outcome of a training user has history,
or if `rl.steps` is 0. Many outcomes without trajectories are a problem of the teacher, not a reason for RL without SFT.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.settings import Settings
from trainer.data.snapshot import Snapshot


@dataclass(frozen=True)
class RunPlan:
    """Whether a run would train on a snapshot, and why."""

    train: bool
    reason: str


def plan_run(snapshot: Snapshot, settings: Settings) -> RunPlan:
    """Checks that there is enough to train on and to judge by."""
    refusal = _too_little(snapshot, settings) or _too_few_judges(snapshot, settings)
    if refusal:
        return RunPlan(False, refusal)
    counts = snapshot.counts
    stages = "SFT and RL" if settings.trainer.rl.steps and counts["training_outcomes"] else "SFT alone"
    reason = f"{stages} on {counts['lessons']} trajectories ({counts['replayed']} replayed) and {counts['training_outcomes']} outcomes"
    return RunPlan(True, f"{reason} of {counts['training_users']} users" + _smaller_holdout(snapshot, settings))


def _too_little(snapshot: Snapshot, settings: Settings) -> str | None:
    trainer, counts = settings.trainer, snapshot.counts
    usable, needed = counts["lessons"], trainer.min_trajectories
    over_share = counts.get("trajectories.over_user_share", 0)
    if usable < needed <= usable + over_share:
        reason = f"a flood from a few users: {usable} of {usable + over_share} usable trajectories are left once no user makes up more than"
        return f"{reason} trainer.user_share {trainer.user_share:g}, trainer.min_trajectories is {needed}"
    if usable < needed:
        return f"{usable} usable trajectories of training users, trainer.min_trajectories is {needed}" + _not_replayed(snapshot, settings)
    if counts["lesson_users"] < trainer.min_users:
        return f"{usable} trajectories of only {counts['lesson_users']} users, trainer.min_users is {trainer.min_users}"
    if counts["lesson_domains"] < trainer.min_domains:
        reason = f"trajectories of {counts['lesson_domains']} domain only, trainer.min_domains is {trainer.min_domains}"
        return f"{reason}; a platform with fewer kinds of task sets it to their number"
    return None


def _too_few_judges(snapshot: Snapshot, settings: Settings) -> str | None:
    needed = settings.trainer.min_heldout_users
    if snapshot.heldout_users >= needed:
        return None
    return f"{snapshot.heldout_users} held-out users with outcomes, trainer.min_heldout_users is {needed}" + _smaller_holdout(snapshot, settings)


def _not_replayed(snapshot: Snapshot, settings: Settings) -> str:
    older = snapshot.counts.get("trajectories.replay_left_out", 0)
    if not older:
        return ""
    return f"; {older} more are the parent's already, which trainer.replay_share {settings.trainer.replay_share:g} limits (1: all of them again)"


def _smaller_holdout(snapshot: Snapshot, settings: Settings) -> str:
    share = settings.trainer.holdout_share
    if snapshot.judged_share >= share:
        return ""
    return f"; judged by users below {snapshot.judged_share:g} only, not trainer.holdout_share {share:g}: an ancestor may have trained on the others"
