"""Settings for a model too small to learn anything, and outcomes and trajectories of a few users on a broker."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.kafka.clients import producer, send
from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.ids import is_held_out
from schemas.topics import OUTCOMES, TRAJECTORIES
from tests.support.outcomes import make_outcome, make_trajectory


def trainer_settings(broker: Broker, checkpoint: Path, directory: Path, model_name: str, **trainer: Any) -> Settings:
    """Limits low enough to train on a dozen users of one domain."""
    enough = {"min_trajectories": 4, "min_heldout_users": 1, "min_users": 1, "min_domains": 1, "user_share": 1.0}
    return load(
        kafka={"bootstrap_servers": broker.bootstrap_servers},
        stack={"dir": directory},
        reflection={"checkpoint": checkpoint, "max_new_tokens": 64},
        registry={"model_name": model_name},
        trainer=enough | trainer,
    )


def send_outcomes(settings: Settings, users: Iterable[str]) -> None:
    """Sends an outcome of every user, and a trajectory of every user who is not held out."""
    to = producer(settings, "test")
    for user in users:
        outcome = make_outcome(user=user)
        send(to, OUTCOMES, outcome, id=outcome.outcome_id, source="/test")
        if not is_held_out("t", user, settings.trainer.holdout_share):
            trajectory = make_trajectory(outcome)
            send(to, TRAJECTORIES, trajectory, id=trajectory.trajectory_id, source="/test")
    to.close()
