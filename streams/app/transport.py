"""Faust's Kafka transport with five changes.

- Read committed: the workers write in transactions, and Faust reads aborted records unless its own exactly-once mode is on.
- Idempotent producer: a retried send must not swap two records of one user.
- Short fetches: aiokafka leaves a partition out of the next fetch while it returns that partition's records to us. A new record of that partition then
  waits until the fetch ends. Faust allows 1.5 s, which was the tail of every context's latency.
- Commit the highest acknowledged offset: our processors acknowledge each partition in order. Faust's own tracking of gaps never commits again if
  two or more records that transactions hide follow the record at offset 0.
- Poll only with free buffers: one loop feeds all processors and blocks on a full buffer, so one slow processor would stop the others. A partition is
  polled only while its processor's buffer has space for a whole poll. Faust's own flags readmit partitions one by one, each with its own poll,
  and a flag that was not cleared is never set again: with four partitions a buffer for five polls became full.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver

from infra.settings.stream import KafkaSettings

FETCH_WAIT_MS = 50
#: Maximum prefetched records of a processor, and maximum records of a poll.
BUFFERED, POLLED = 1_024, 200
#: Pause before a partition that was left out is polled again.
REFILL_S = 0.05


class ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is not analysed
    logger = driver.logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class BufferedConsumer(driver.Consumer):  # type: ignore[misc]
    logger = driver.logger

    def _new_consumer_thread(self) -> ReadCommittedThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        pollable = {tp for tp in active_partitions if self._has_space(tp.topic)}
        if not pollable:  # aiokafka takes an empty set for all partitions
            await asyncio.sleep(REFILL_S)
            return {}
        return await super()._getmany(pollable, timeout if len(pollable) == len(active_partitions) else REFILL_S)

    def _has_space(self, topic: str) -> bool:
        """Only a poll adds to the buffers, so a buffer with space now has space for the whole poll."""
        queues = (channel.queue for channel in self.app.topics if topic in channel.topics)
        return all(queue.maxsize - queue.qsize() >= POLLED for queue in queues)

    def on_buffer_full(self, tp: Any) -> None:
        """No flags are needed, see the module."""

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        highest: int = max(acked)
        self._acked_index[tp].difference_update(acked)
        acked.clear()
        return highest + 1

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps are not tracked, see the module."""


class IdempotentProducer(driver.Producer):  # type: ignore[misc]
    logger = driver.logger

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):  # type: ignore[misc]
    Consumer = BufferedConsumer
    Producer = IdempotentProducer


def credentials(kafka: KafkaSettings) -> Any:
    """Faust's broker credentials. None for plain text."""
    context = None
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return SASLCredentials(username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context)
    return SSLCredentials(context) if context else None
