"""Checkpoint of one topic in one partition: the offset to re-read from, and the state that re-reading cannot rebuild.

Sums are not stored. The committed offset is the *low-water* offset: the first record that open windows and live experiments still need. The
next owner of the partition reads from there and computes the same sums. The commit's metadata holds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationError

from schemas.messages import Record

#: Number of ended experiments that a checkpoint names, so that a late record does not start one again. The broker takes 4,096 bytes of metadata.
ENDED = 24


class PartitionCheckpoint(Record):
    """Times are seconds since 1970, from the records' timestamps."""

    read_to: Annotated[int, Field(ge=0)] = 0  # nothing is published before reading reaches this offset: earlier sums would be too small
    released: float = 0.0  # windows that began before are final
    clock: float = 0.0  # of the newest record
    live: tuple[UUID, ...] = ()  # experiments whose records are read again
    ended: tuple[UUID, ...] = ()  # experiments whose later records do not count
    begun: Mapping[UUID, float] = Field(default_factory=dict)  # live comparisons of strategies, with the time of their first answer

    @classmethod
    def parse(cls, metadata: str) -> PartitionCheckpoint:
        """An empty checkpoint if the metadata is empty or of another program."""
        try:
            return cls.model_validate_json(metadata)
        except ValidationError:
            return cls()

    def after_data_loss(self) -> PartitionCheckpoint:
        """The checkpoint if records it needs are deleted: windows and experiments that cannot be rebuilt stay as they were published last."""
        return self.model_copy(update={"released": max(self.released, self.clock), "live": (), "begun": {}, "ended": (*self.ended, *self.live)[-ENDED:]})
