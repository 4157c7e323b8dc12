"""What the topics tell the promoter: online quality and the workers' reports (`reading` reads them)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from schemas.quality import Quality
from schemas.serving import ServingReport


@dataclass(frozen=True)
class Observations:
    """What the topics told at one moment."""

    is_current: bool = False
    experiment: UUID | None = None
    cells: Sequence[Quality] = ()  # of that experiment
    windows: Sequence[Quality] = ()
    reports: Sequence[ServingReport] = ()  # the last of each worker


class TopicObserver(Protocol):
    def observe(self, experiment: UUID | None) -> Observations:
        """What is known by now; the cells are of `experiment` from some later call on. Returns at once."""
        ...


class NoFeed:
    """Where no broker is."""

    def observe(self, experiment: UUID | None) -> Observations:
        return Observations()
