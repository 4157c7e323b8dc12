"""The position of a record in its topic, and its text: topic/partition/offset."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.messages import Record


class Source(Record):
    """Topic, partition and offset of a record."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"
