"""Kafka clients: addresses, security and the options that durability depends on, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, TopicAuthorizationFailedError
from kafka.protocol.metadata import MetadataRequest

from infra.errors import UnreadableBatch
from infra.kafka.batches import BatchDecoding
from infra.kafka.connections import REACH_S, net_client
from infra.kafka.named_clients import Admin, NamedConsumer, NamedProducer
from infra.kafka.names import KafkaNames
from infra.kafka.tokens import KafkaTokens, token_source
from infra.settings import Settings
from infra.settings.sasl import OAUTHBEARER
from infra.settings.stream import KafkaSettings
from schemas.envelope import envelope_headers
from schemas.messages import Message
from schemas.topics import MAX_MESSAGE_BYTES, Topic

#: Timestamp of a record without one, as Kafka's Java client returns it. kafka-python returns None for a record from before Kafka 0.10. In a damaged batch the
#: sum of base and delta may exceed 64 bits.
NO_TIMESTAMP, FIRST_TIMESTAMP, LAST_TIMESTAMP = -1, -(2**63), 2**63 - 1


def client_options(settings: Settings) -> dict[str, Any]:
    """Connection options of kafka-python. Raises BadSetting without an address."""
    kafka: KafkaSettings = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers().split(","),
        "security_protocol": kafka.security_protocol,
        # A local broker restarts within seconds; the client's default backs off to a minute.
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 1000,
        "bootstrap_timeout_ms": int(REACH_S * 1000),
        "kafka_client": net_client(kafka),
    }
    if kafka.sasl_mechanism == OAUTHBEARER:
        options |= {"sasl_mechanism": OAUTHBEARER, "sasl_oauth_token_provider": KafkaTokens(token_source(kafka.oauth), kafka.oauth.extensions)}
    elif kafka.sasl_mechanism:
        options |= {"sasl_mechanism": kafka.sasl_mechanism, "sasl_plain_username": kafka.sasl_username}
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    if kafka.ssl_cafile:
        options["ssl_cafile"] = str(kafka.ssl_cafile)
    if kafka.ssl_certfile:  # read again for each connection, so a renewed certificate needs no restart
        options |= {"ssl_certfile": str(kafka.ssl_certfile), "ssl_keyfile": kafka.ssl_keyfile and str(kafka.ssl_keyfile)}
        options["ssl_password"] = kafka.key_password
    return options


def producer(settings: Settings, client_id: str, **options: Any) -> NamedProducer:
    """An idempotent producer that waits for all replicas."""
    defaults: dict[str, Any] = {"acks": "all", "enable_idempotence": True, "linger_ms": 5, "max_request_size": MAX_MESSAGE_BYTES}
    return NamedProducer(KafkaNames.of(settings), client_id=client_id, **(client_options(settings) | defaults | options))


def groupless_consumer(settings: Settings, client_id: str, **options: Any) -> NamedConsumer:
    """A consumer without a group. It reads committed records only and commits nothing. `infra.kafka.topic_reader` is the simpler way to read a topic."""
    defaults = {"group_id": None, "enable_auto_commit": False, "isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    return Consumer(settings, client_id=client_id, **(defaults | options))


def admin(settings: Settings, client_id: str = "retouch-admin", **options: Any) -> Admin:
    return Admin(KafkaNames.of(settings), client_id=client_id, **(client_options(settings) | options))


def send(to: NamedProducer, topic: Topic, message: Message, *, id: object, source: str, traceparent: str | None = None) -> Any:
    """Send one message under its own key with its CloudEvents headers. Returns the client's future."""
    key: bytes = message.key  # type: ignore[attr-defined]  # every message on a topic has one
    return to.send(topic.name, key=key, value=message.to_bytes(), headers=envelope_headers(message, id=id, source=source, traceparent=traceparent))


class Consumer(NamedConsumer):
    """A consumer with the addresses and the security of the settings. Six things differ from kafka-python 3.0.12:

    - batches are decoded as `infra.kafka.batches` describes;
    - `poll` returns no further record after POLL_BYTES of them;
    - `poll` raises UnreadableBatch at a batch that cannot be decoded, and again in each later poll at that position;
    - a record without a timestamp, or with one beyond 64 bits, has NO_TIMESTAMP;
    - topic metadata is awaited for `request_timeout_ms`, not without a bound;
    - `partitions_for_topic` raises TopicAuthorizationFailedError for a topic that the user may not see, which kafka-python takes for a missing one.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        names = KafkaNames.of(settings)
        super().__init__(names, **(client_options(settings) | options))
        decoding, parse, append = BatchDecoding(settings.kafka, self.highwater_on_broker, names), self._fetcher._parse_fetched_data, self._fetcher._append
        self._decoding = decoding
        self._fetcher.PartitionRecords = lambda *args, **kwargs: DecodedRecords(decoding, *args, **kwargs)
        self._fetcher._parse_fetched_data = lambda fetch: _parsed(parse, decoding, fetch)
        self._fetcher._append = lambda *args: _appended(append, decoding, *args)

    def poll(self, *args: Any, **kwargs: Any) -> Any:
        self._decoding.begin_poll()
        return super().poll(*args, **kwargs)

    def partitions_for_topic(self, topic: str) -> Any:
        if not (partitions := super().partitions_for_topic(topic)):
            self._net.run(self._check_visible, self._names.topic(topic))
        return partitions

    async def _check_visible(self, topic: str) -> None:
        request = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=topic)],
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
        response = await self._manager.wait_for(self._manager.send(request), self.config["request_timeout_ms"])
        if any(found.error_code == TopicAuthorizationFailedError.errno for found in response.topics):
            raise TopicAuthorizationFailedError({topic})

    def _fetch_all_topic_metadata(self) -> None:
        if self._cluster.metadata_refresh_in_progress:  # that one may be of fewer topics
            self._update_metadata()
        before, self._cluster.need_all_topic_metadata = self._cluster.need_all_topic_metadata, True
        try:
            self._update_metadata()
        finally:
            self._cluster.need_all_topic_metadata = before

    def _update_metadata(self) -> None:
        self._net.run(self._manager.wait_for, self._cluster.request_update(), self.config["request_timeout_ms"])


class DecodedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    def __init__(self, decoding: BatchDecoding, *args: Any, **kwargs: Any) -> None:
        self._decoding = decoding
        self._unreadable: UnreadableBatch | None = None
        super().__init__(*args, **kwargs)

    def take(self, n: int | None = None) -> list[Any]:
        """Raises UnreadableBatch again: the client would call the ended generator for ever."""
        if self._unreadable is not None:
            raise self._unreadable
        records: list[Any] = []
        try:
            for record in islice(self.record_iterator, n):
                records.append(record)
                self._decoding.count(record)
                if self._decoding.poll_is_full:
                    break
        except UnreadableBatch:
            if not records:
                raise
        return records

    def _unpack_records(self, partition: Any, batches: Any, *deserializers: Any) -> Iterator[Any]:
        unpack, declared = super()._unpack_records, self._decoding.names.declared_partition(partition)
        try:
            for record in self._decoding.records(self, partition, batches, batches._buffer, lambda tracked: unpack(declared, tracked, *deserializers)):
                at = record.timestamp
                yield record if at is not None and FIRST_TIMESTAMP <= at <= LAST_TIMESTAMP else record._replace(timestamp=NO_TIMESTAMP)
        except UnreadableBatch as error:
            self._unreadable = error
            raise


def _appended(append: Callable[..., int], decoding: BatchDecoding, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
    """The number of records that a part added to `drained`; `max_records`, which ends the poll, if it is full."""
    added = append(drained, part, max_records, update_offsets)
    return max_records if decoding.poll_is_full else added


def _parsed(parse: Callable[[Any], Any], decoding: BatchDecoding, fetch: Any) -> Any:
    """Raises UnreadableBatch if the broker could not read its own log, or sent no complete batch."""
    try:
        return parse(fetch)
    except KafkaError as error:
        if isinstance(error, CorruptRecordError) or type(error) is KafkaError:
            topic, partition = decoding.names.declared_partition(fetch.topic_partition)
            raise UnreadableBatch(topic, partition, fetch.fetched_offset, "the broker cannot read it", is_damaged=True) from error
        raise
