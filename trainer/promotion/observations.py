"""The promoter's observations of topics: online quality and the workers' serving reports. `topic_feed` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from schemas.quality import Quality
from schemas.serving import ServingReport


@dataclass(frozen=True)
class Observations:
    """Content of the topics at one moment."""

    is_current: bool = False
    experiment: UUID | None = None
    cells: Sequence[Quality] = ()  # of that experiment
    windows: Sequence[Quality] = ()
    reports: Sequence[ServingReport] = ()  # the last of each worker


class TopicObserver(Protocol):
    def observe(self, experiment: UUID | None) -> Observations:
        """The newest observations. The cells follow a new `experiment` a little later. Does not block."""


class NoTopics:
    """The observer without a broker."""

    def observe(self, experiment: UUID | None) -> Observations:
        return Observations()
