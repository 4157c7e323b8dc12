"""A Kafka cluster as the runtime's broker."""

from __future__ import annotations

import socket

from infra.settings import Settings
from workers.runtime.broker import Membership, Producer
from workers.runtime.kafka.membership import KafkaMembership
from workers.runtime.kafka.transactions import KafkaRepeating, KafkaTransactions


class KafkaBroker:
    """Memberships and transactional ids are named after `kafka.instance`, or the host where it is not set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._instance = settings.kafka.instance or socket.gethostname()

    def membership(self, name: str, topic: str, remember: int) -> Membership:
        return KafkaMembership(self._settings, name, self._instance, topic, remember)

    def transactions(self, name: str) -> Producer:
        return KafkaTransactions(self._settings, name, self._instance)

    def repeating(self, name: str) -> Producer:
        return KafkaRepeating(self._settings, name, self._instance)
