"""Results and positions, made durable together: how is a committer's own affair.

`AtLeastOnce` produces, waits until all replicas have the results, and commits the positions behind them. Between the two a crash repeats
results; their derived ids make the repeat harmless. A transactional committer takes the same two arguments.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from kafka import errors as kafka_errors

from infra.errors import CannotContinue
from infra.kafka import producer
from infra.settings import Settings
from infra.topology import DEAD_LETTER_ROOM
from schemas.topics import MAX_MESSAGE_BYTES
from workers.runtime.delivery import Outbound
from workers.runtime.membership import Membership

log = logging.getLogger(__name__)

#: How long a broker may be away before the process stops; nothing is lost by waiting or by stopping.
COMMIT_WITHIN_S = 60.0
#: A rebalance waits for us: results that take longer are made again by the next owner.
REVOKE_WITHIN_S = 3.0


class Committer(Protocol):
    def commit(self, outputs: Sequence[Outbound], positions: Mapping[int, int]) -> bool:
        """Blocks until the outputs are durable. Returns whether the positions are; where not, later ones are given again.

        Raises CannotContinue when the outputs cannot be made durable: then no position behind them is committed.
        """
        ...

    async def commit_on_revoke(self, outputs: Sequence[Outbound], positions: Mapping[int, int]) -> None:
        """The last word on partitions that go away, on the client's thread. Best effort: what fails is done again by the next owner."""
        ...

    def close(self) -> None: ...


class AtLeastOnce:
    def __init__(self, settings: Settings, membership: Membership) -> None:
        self._membership = membership
        self._producer = producer(settings, f"{membership.group}-producer", max_request_size=MAX_MESSAGE_BYTES + DEAD_LETTER_ROOM)

    def commit(self, outputs: Sequence[Outbound], positions: Mapping[int, int]) -> bool:
        self._produce(outputs, COMMIT_WITHIN_S)
        return not positions or self._membership.commit(positions, timeout_s=5.0)

    async def commit_on_revoke(self, outputs: Sequence[Outbound], positions: Mapping[int, int]) -> None:
        try:
            self._produce(outputs, REVOKE_WITHIN_S)
            if positions:
                await self._membership.commit_on_client_thread(positions)
        except (CannotContinue, kafka_errors.KafkaError) as error:
            log.warning("finished work was not committed before its partition went away", extra={"reason": type(error).__name__})

    def close(self) -> None:
        self._producer.close(timeout=5.0)

    def _produce(self, outputs: Sequence[Outbound], timeout_s: float) -> None:
        if not outputs:
            return
        try:
            sent = [self._producer.send(o.topic, key=o.key, value=o.value, headers=o.headers) for o in outputs]
            self._producer.flush(timeout=timeout_s)
            for future in sent:
                future.get(timeout=0)
        except kafka_errors.KafkaError as error:
            raise CannotContinue(f"the broker did not take {len(outputs)} results within {timeout_s:g} s: {type(error).__name__}") from error
