"""Serving reports: what each reflection worker has loaded, routes to and refuses. The promoter and the page read them."""

from __future__ import annotations

from uuid import UUID

from schemas.messages import AwareDatetime, Message, Record
from schemas.responses import ModelVersion


class Refusal(Record):
    """A version that a worker does not serve: its files are unsound, it does not load, or its tokens differ from the canary prompts."""

    model: ModelVersion
    reason: str  # names version and file, never a user's text


class ServingReport(Message, wire="retouch.serving", version=1):
    """What one worker serves now; published on every change and every few seconds. Topic: serving, compacted. Key: worker."""

    worker: str  # fixed name of the process, such as reflection-host-1
    at: AwareDatetime
    champion: ModelVersion  # answers all users outside the canary
    challenger: ModelVersion | None = None  # loaded and routed to
    experiment: UUID | None = None
    loaded: tuple[ModelVersion, ...] = ()
    refused: tuple[Refusal, ...] = ()
    swaps: int = 0  # since the process started

    @property
    def key(self) -> bytes:
        return self.worker.encode()
