"""Commits results and positions on Kafka: in one transaction, or one after the other.

No Python client implements KIP-890 in full, and a blocked call of kafka-python cannot be cancelled. So a transaction has a deadline, and a
producer is never used again after an error: the next `start` makes a new one with the same transactional id, whose initialization ends
the open transaction. The worker then reads the committed positions before it continues.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import errors as kafka_errors

from infra.errors import CannotContinue
from infra.kafka.clients import producer as make_producer
from infra.kafka.connection_failures import AccessRefused
from infra.kafka.connections import REACH_S
from infra.kafka.declared_topics import DEAD_LETTER_HEADER_BYTES
from infra.kafka.group_consumer import offsets_and_metadata
from infra.kafka.named_clients import NamedProducer
from infra.kafka.names import KafkaNames
from infra.kafka.permanent_errors import permanent_error
from infra.kafka.refusals import Use, refusal
from infra.kafka.rights import Operation
from infra.settings import Settings
from schemas.records import ProducedRecord
from schemas.topics import MAX_MESSAGE_BYTES, Topic, consumer_group
from workers.runtime.broker import CommitRefused, Committer, Membership, NotConfirmed
from workers.runtime.kafka.client_thread import ClientThread
from workers.runtime.kafka.membership import KafkaMembership, by_partition
from workers.runtime.offsets import Position

log = logging.getLogger(__name__)


#: An open transaction of a dead worker blocks readers of its results for this long, unless the worker restarts.
TRANSACTION_TIMEOUT_MS = 10_000
NEEDS = "exactly once needs transactions (Kafka 2.5 or newer with KIP-447); set workers.delivery=at_least_once, or use another broker"
BEGINS_NONE = "it answers but begins no transaction: compare transaction.state.log.replication.factor and .min.isr with the number of brokers"
REFUSED = (
    kafka_errors.TransactionalIdAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.IncompatibleBrokerVersion,
    kafka_errors.InvalidTransactionTimeoutError,
)


class _ProducerThread:
    """One producer and its thread. Dropped after the first error."""

    def __init__(self, name: str) -> None:
        self.thread = ClientThread(name)
        self.producer: NamedProducer | None = None

    @property
    def transaction_error(self) -> BaseException | None:
        """The error that ended the transaction. Later calls of the client raise other errors, or never return."""
        transaction = self.producer and self.producer._transaction_manager
        error: BaseException | None = transaction and transaction.last_error
        return error

    @property
    def refusal(self) -> AccessRefused | None:
        return self.producer and self.producer.refusal

    def drop(self) -> None:
        """Close it in a separate thread: it may hang."""
        self.thread.end()
        if self.producer is not None:
            threading.Thread(target=_close, args=(self.producer, 0.0), daemon=True).start()


class _KafkaCommitter:
    def __init__(self, settings: Settings, name: str, instance: str) -> None:
        self._settings = settings
        self._name = f"{consumer_group(name)}-{instance}"
        names = KafkaNames(settings.kafka)
        self._use = Use(Operation.WRITE, group=names.group(consumer_group(name)), transactional_id=names.group(self._name))
        self._client: _ProducerThread | None = None

    async def start(self, timeout_s: float) -> None:
        self._drop()
        client = self._client = _ProducerThread(f"{self._name}-producer")
        try:
            await client.thread.call(lambda: self._open(client, timeout_s), timeout_s + 1)
        except AccessRefused:
            self._drop()
            raise
        except REFUSED as error:
            missing = refusal(self._settings.kafka, self._use, error)
            raise CannotContinue(f"the broker refuses the producer ({type(error).__name__}): {missing or NEEDS}") from error
        except (TimeoutError, kafka_errors.KafkaError) as error:
            refused, answers = client.refusal, client.producer is not None
            self._drop()
            if refused:
                raise refused from error
            raise NotConfirmed(f"{BEGINS_NONE if answers else 'it does not answer'}, within {timeout_s:g} s ({_text(error)})") from error

    async def commit(self, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
        if self._client is None:
            raise NotConfirmed("there is no producer")
        try:
            await self._make_durable(self._client, outputs, positions, membership, timeout_s)
        except (TimeoutError, kafka_errors.KafkaError) as error:
            permanent = permanent_error(self._settings.kafka, self._use, error, self._client.transaction_error)
            refused = self._client.refusal
            self._drop()
            if refused:
                raise refused from error
            if permanent:
                raise CommitRefused(
                    f"the broker at {self._settings.bootstrap_servers()} takes no results of {self._use.transactional_id}: {permanent}"
                ) from error
            raise NotConfirmed(_text(error)) from error

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and client.producer is not None:
            producer = client.producer
            try:
                await client.thread.call(lambda: _close(producer, 2.0), 3.0)
            except TimeoutError:
                log.warning("the producer did not close in time", extra={"producer": self._name})
            client.thread.end()

    def _drop(self) -> None:
        if self._client is not None:
            self._client.drop()
            self._client = None

    def _open(self, client: _ProducerThread, timeout_s: float) -> None:
        raise NotImplementedError

    async def _make_durable(
        self, client: _ProducerThread, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float
    ) -> None:
        raise NotImplementedError

    def _make(self, timeout_s: float, **options: Any) -> NamedProducer:
        request_bytes = MAX_MESSAGE_BYTES + DEAD_LETTER_HEADER_BYTES
        timeout_ms, reach_ms = int(timeout_s * 1000), int(min(timeout_s, REACH_S) * 1000)
        batching = {"linger_ms": 0, "batch_size": 262_144, "retry_backoff_ms": 5}
        return make_producer(
            self._settings, self._name, max_request_size=request_bytes, max_block_ms=timeout_ms, bootstrap_timeout_ms=reach_ms, **batching, **options
        )


class KafkaExactlyOnce(_KafkaCommitter):
    """One transaction: readers see the results if and only if the positions are committed, under a valid membership (KIP-447)."""

    def _open(self, client: _ProducerThread, timeout_s: float) -> None:
        client.producer = self._make(timeout_s, transactional_id=self._name, transaction_timeout_ms=TRANSACTION_TIMEOUT_MS)
        if client.producer.config["api_version"] < (2, 5):
            version = ".".join(map(str, client.producer.config["api_version"]))
            raise CannotContinue(f"the broker supports only the protocol of Kafka {version}: {NEEDS}")
        client.producer.init_transactions()

    async def _make_durable(
        self, client: _ProducerThread, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float
    ) -> None:
        offsets = offsets_and_metadata(by_partition(membership.topic, positions))
        generation, producer = membership.generation, client.producer

        def transaction() -> None:
            assert producer is not None
            producer.begin_transaction()
            for output in outputs:
                sent = producer.send(output.topic, key=output.key, value=output.value, headers=list(output.headers))
                if sent.failed():  # a topic that may not be written: the client leaves the record out of the transaction, which would commit without it
                    raise sent.exception
            if offsets:
                producer.send_offsets_to_transaction(offsets, generation)
            producer.commit_transaction()

        await client.thread.call(transaction, timeout_s)


class KafkaAtLeastOnce(_KafkaCommitter):
    """Results first, on all replicas, then the positions. A crash in between repeats results."""

    def _open(self, client: _ProducerThread, timeout_s: float) -> None:
        client.producer = self._make(timeout_s)

    async def _make_durable(
        self, client: _ProducerThread, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float
    ) -> None:
        producer = client.producer

        def produce() -> None:
            assert producer is not None
            sent = [producer.send(o.topic, key=o.key, value=o.value, headers=list(o.headers)) for o in outputs]
            producer.flush(timeout=timeout_s)
            for future in sent:
                future.get(timeout=0)

        if outputs:
            await client.thread.call(produce, timeout_s + 1)
        if positions:
            await membership.commit(positions, timeout_s)


def _text(error: BaseException) -> str:
    """Its type with its text, which names topics and partitions, and no record."""
    return str(error) if isinstance(error, kafka_errors.KafkaError) else type(error).__name__


def _close(producer: NamedProducer, timeout_s: float) -> None:
    try:
        producer.close(timeout=timeout_s)
    except Exception as error:  # it is not used again either way
        log.debug("a producer did not close", extra={"kind": type(error).__name__})


class KafkaBrokerClient:
    """Transactional ids, like members, are named after `kafka.instance`, or after the host if it is not set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._instance = settings.kafka.instance or socket.gethostname()

    def membership(self, name: str, topic: Topic, remember: int) -> Membership:
        return KafkaMembership(self._settings, name, topic, remember)

    def exactly_once(self, name: str) -> Committer:
        return KafkaExactlyOnce(self._settings, name, self._instance)

    def at_least_once(self, name: str) -> Committer:
        return KafkaAtLeastOnce(self._settings, name, self._instance)
