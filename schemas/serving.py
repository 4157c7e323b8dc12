"""Serving reports: what each reflection worker has loaded, routes to and refuses. The promoter and the page read them."""

from __future__ import annotations

from uuid import UUID

from schemas.messages import AwareDatetime, Message, Record
from schemas.responses import ModelVersion


class Refusal(Record):
    """A version that a worker does not serve: its files are unsound, it does not load, or it writes other tokens than registered."""

    model: ModelVersion
    reason: str  # names version and file, never a text


class ServingReport(Message, wire="retouch.serving", version=1):
    """What one worker serves now; sent when it changes and every few seconds. Topic: serving, compacted. Key: worker."""

    worker: str  # lasting name of the process, such as reflection-host-1
    at: AwareDatetime
    champion: ModelVersion  # answers everybody who is in no canary
    challenger: ModelVersion | None = None  # loaded and routed to
    experiment: UUID | None = None
    loaded: tuple[ModelVersion, ...] = ()
    refused: tuple[Refusal, ...] = ()
    swaps: int = 0  # since its start

    @property
    def key(self) -> bytes:
        return self.worker.encode()
