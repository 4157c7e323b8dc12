"""What the three processors share: a batch of records in, the records that follow from them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.app.records import Arrival, Outgoing


class Processor(Protocol):
    """`handle` may raise RetryLater and is then called again with the same batch; anything else it raises ends the process.

    When it returns, everything but the outgoing records is durable; the batch is acknowledged once those are too.
    """

    @property
    def name(self) -> str: ...

    @property
    def topics(self) -> tuple[str, ...]: ...

    @property
    def batch(self) -> int:
        """Records at most."""

    @property
    def linger_s(self) -> float:
        """How long a batch that is not full waits for more."""

    async def handle(self, arrivals: Sequence[Arrival]) -> list[Outgoing]: ...
