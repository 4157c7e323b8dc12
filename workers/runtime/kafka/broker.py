"""Kafka as the runtime's broker."""

from __future__ import annotations

import socket

from infra.settings import Settings
from workers.runtime.broker import Committer, Membership
from workers.runtime.kafka.membership import KafkaMembership
from workers.runtime.kafka.transactions import KafkaAtLeastOnce, KafkaExactlyOnce


class KafkaBrokerClient:
    """Transactional ids, like members, are named after `kafka.instance`, or after the host if it is not set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._instance = settings.kafka.instance or socket.gethostname()

    def membership(self, name: str, topic: str, remember: int) -> Membership:
        return KafkaMembership(self._settings, name, topic, remember)

    def exactly_once(self, name: str) -> Committer:
        return KafkaExactlyOnce(self._settings, name, self._instance)

    def at_least_once(self, name: str) -> Committer:
        return KafkaAtLeastOnce(self._settings, name, self._instance)
