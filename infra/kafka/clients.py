"""Kafka clients: addresses, security and the options that durability depends on, in one place."""

from __future__ import annotations

from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from schemas.envelope import envelope_headers
from schemas.messages import Message
from schemas.topics import MAX_MESSAGE_BYTES, Topic


def client_options(settings: Settings) -> dict[str, Any]:
    """Connection options of kafka-python. Raises BadSetting without an address."""
    kafka: KafkaSettings = settings.kafka
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers().split(","),
        "security_protocol": kafka.security_protocol,
        # A local broker restarts within seconds; the client's default backs off to a minute.
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 1000,
    }
    if kafka.sasl_mechanism:
        options |= {"sasl_mechanism": kafka.sasl_mechanism, "sasl_plain_username": kafka.sasl_username}
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    if kafka.ssl_cafile:
        options["ssl_cafile"] = str(kafka.ssl_cafile)
    return options


def producer(settings: Settings, client_id: str, **options: Any) -> KafkaProducer:
    """An idempotent producer that waits for all replicas."""
    defaults = {"acks": "all", "enable_idempotence": True, "linger_ms": 5, "max_request_size": MAX_MESSAGE_BYTES}
    return KafkaProducer(client_id=client_id, **client_options(settings), **(defaults | options))


def groupless_consumer(settings: Settings, client_id: str, **options: Any) -> KafkaConsumer:
    """A consumer without a group. It reads committed records only and commits nothing. `infra.kafka.topic_reader` is the simpler way to read a topic."""
    defaults = {"group_id": None, "enable_auto_commit": False, "isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    return _BoundedConsumer(client_id=client_id, **client_options(settings), **(defaults | options))


def admin(settings: Settings, client_id: str = "retouch-admin", **options: Any) -> KafkaAdminClient:
    return KafkaAdminClient(client_id=client_id, **client_options(settings), **options)


def send(to: KafkaProducer, topic: Topic, message: Message, *, id: object, source: str, traceparent: str | None = None) -> Any:
    """Send one message under its own key with its CloudEvents headers. Returns the client's future."""
    key: bytes = message.key  # type: ignore[attr-defined]  # every message on a topic has one
    return to.send(topic.name, key=key, value=message.to_bytes(), headers=envelope_headers(message, id=id, source=source, traceparent=traceparent))


class _BoundedConsumer(KafkaConsumer):  # type: ignore[misc]  # the client has no types
    """kafka-python 3.0.12 waits for topic metadata without a bound; this waits for `request_timeout_ms`."""

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
