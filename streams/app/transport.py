"""Faust's Kafka transport with five habits changed.

Read committed: the workers write in transactions, and Faust sees aborted records unless its own exactly-once mode is on.
Idempotent producer: a retried send must not swap the order of two records of one user.
Short fetches: aiokafka leaves a partition whose records it is handing out out of the next fetch, and a record that comes there meanwhile
waits until that fetch returns; Faust lets it wait 1.5 s for records elsewhere, which showed as the tail of every context's latency.
Commit by the highest acknowledged offset: our processors acknowledge each partition in order, so nothing below it is open. Faust's own
bookkeeping of gaps never commits again when the record at offset 0 is followed by two or more that transactions hide.
Room before reading: one loop feeds all processors and waits where a buffer is full, so a processor that stands still would hold up the others.
A partition is polled only while its processor's buffer has room for a whole poll. Faust's own marks leave partitions in one by one, each with
a poll of its own, and forget to set a mark again that was not cleared: with four partitions a buffer of five polls ran full.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver

from infra.settings import KafkaSettings

FETCH_WAIT_MS = 50
#: Prefetched records a processor, and records a poll.
BUFFERED, POLLED = 1_024, 200
#: How soon a partition that was left out is looked at again.
REFILL_S = 0.05


class CommittedReader(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is not analysed
    logger = driver.logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class Consumer(driver.Consumer):  # type: ignore[misc]
    logger = driver.logger

    def _new_consumer_thread(self) -> CommittedReader:
        return CommittedReader(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        wanted = {tp for tp in active_partitions if self._has_room(tp.topic)}
        if not wanted:  # to aiokafka an empty set means every partition
            await asyncio.sleep(REFILL_S)
            return {}
        return await super()._getmany(wanted, timeout if len(wanted) == len(active_partitions) else REFILL_S)

    def _has_room(self, topic: str) -> bool:
        """Only a poll adds to the buffers, so what has room now has room for all that this poll brings."""
        queues = (channel.queue for channel in self.app.topics if topic in channel.topics)
        return all(queue.maxsize - queue.qsize() >= POLLED for queue in queues)

    def on_buffer_full(self, tp: Any) -> None:
        """Needs no marks; see above."""

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        highest: int = max(acked)
        self._acked_index[tp].difference_update(acked)
        acked.clear()
        return highest + 1

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps need no bookkeeping; see above."""


class Producer(driver.Producer):  # type: ignore[misc]
    logger = driver.logger

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):  # type: ignore[misc]
    Consumer = Consumer
    Producer = Producer


def credentials(kafka: KafkaSettings) -> Any:
    """What Faust calls broker credentials; None for plain text."""
    context = None
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return SASLCredentials(username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context)
    return SSLCredentials(context) if context else None
