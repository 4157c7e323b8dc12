"""The interface of the three processors: a batch of consumed records in, the records to produce out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.produced_records import ProducedRecord
from streams.app.records import ConsumedRecord


class Processor(Protocol):
    """If `handle` raises RetryLater, it is called again with the same batch. Any other exception ends the process.

    When `handle` returns, its effects on stores are durable. The batch is acknowledged once the produced records are durable too.
    """

    @property
    def name(self) -> str: ...

    @property
    def topics(self) -> tuple[str, ...]: ...

    @property
    def batch(self) -> int:
        """Maximum number of records in a batch."""

    @property
    def linger_s(self) -> float:
        """How long a batch that is not full waits for more records."""

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]: ...
