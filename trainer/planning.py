"""Planning: whether a snapshot is worth a run, and why or why not, before anything slow is loaded.

What is decided here: a run starts from the champion and needs enough trajectories and enough held-out users, else it trains nothing and
says why. SFT always comes before RL, because RL's KL anchor is the SFT policy; where no outcome of a training user has history, or
`rl.steps` is 0, the run is SFT alone. Trajectories missing while outcomes abound is a teacher's problem, not a reason for RL from the champion.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.registry import Registry
from infra.settings import Settings
from schemas.topics import TRAJECTORIES
from trainer.collect import Snapshot, offsets_beyond, ranges_json


@dataclass(frozen=True)
class Plan:
    """What a run would do with a snapshot, and why."""

    train: bool
    reason: str


def plan(snapshot: Snapshot, settings: Settings) -> Plan:
    """Whether there is enough to train on and to judge by."""
    trainer = settings.trainer
    if len(snapshot.lessons) < trainer.min_trajectories:
        return Plan(False, f"{len(snapshot.lessons)} usable trajectories of training users, trainer.min_trajectories is {trainer.min_trajectories}")
    if snapshot.heldout_users < trainer.min_heldout_users:
        reason = f"{snapshot.heldout_users} held-out users with outcomes, trainer.min_heldout_users is {trainer.min_heldout_users}"
        return Plan(False, reason + _narrowing(snapshot, settings))
    stages = "SFT and RL" if trainer.rl.steps and any(case.items for case in snapshot.training) else "SFT alone"
    users = snapshot.counts["training_users"]
    reason = f"{stages} on {len(snapshot.lessons)} trajectories and {len(snapshot.training)} outcomes of {users} users"
    return Plan(True, reason + _narrowing(snapshot, settings))


def _narrowing(snapshot: Snapshot, settings: Settings) -> str:
    share = settings.trainer.holdout_share
    if snapshot.judged_share >= share:
        return ""
    return f"; judged by users below {snapshot.judged_share:g} only, not trainer.holdout_share {share:g}: an ancestor may have trained on the others"


def if_new(snapshot: Snapshot, registry: Registry, settings: Settings, planned: Plan) -> Plan:
    """`planned`, unless too little is new since the newest version."""
    newest = registry.versions()[-1]
    before = ranges_json(newest.dataset.ranges) if newest.dataset else {}
    new = offsets_beyond(snapshot.ranges, before, TRAJECTORIES)
    if new < settings.trainer.min_trajectories:
        reason = f"{new} new trajectory records since version {newest.version}, trainer.min_trajectories is {settings.trainer.min_trajectories}"
        return Plan(False, reason)
    return planned
