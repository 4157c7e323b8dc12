"""The leases, of which each has one holder among all processes (infra.kafka.lease, trainer.run.lease)."""

from __future__ import annotations

from enum import StrEnum


class LeaseName(StrEnum):
    """What its holder may do."""

    TRAINER = "trainer"  # a training run
    TRAINER_SERVICE = "trainer-service"  # start training runs when a trigger fires
    PROMOTER = "promoter"  # write transitions and move aliases: the promoter, or a command if no promoter runs
    HYDRA = "promoter-hydra"  # write transitions of HYDRA's versions: the trainer after a run, or a command


def lease_group(name: str) -> str:
    """The consumer group whose one assigned member holds the lease `name` (infra.kafka.lease)."""
    return f"retouch-lease-{name}"
