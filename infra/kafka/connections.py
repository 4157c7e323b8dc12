"""The connections of kafka-python's clients. `infra.kafka.clients` passes `NetClient` to each of them.

kafka-python 3.0.12 lets an OSError through where a connection that is being made breaks, as when a broker with TLS dies at that moment: wrapping the
socket raises ConnectionResetError. Its loop that refreshes metadata ends at any error that is no KafkaError, and is never started again; from then on the
client stays with the leaders it knew. Here such an error is a KafkaConnectionError, which every caller retries.
"""

from __future__ import annotations

from typing import Any

from kafka.errors import KafkaConnectionError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector


class ConnectionManager(KafkaConnectionManager):  # type: ignore[misc]  # the client has no types
    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        try:
            return await super()._build_transport(node, timeout_at=timeout_at)
        except OSError as error:
            raise KafkaConnectionError(f"{type(error).__name__}: {error}") from error


class NetClient(KafkaNetClient):  # type: ignore[misc]
    """What kafka-python takes as `kafka_client`."""

    def __init__(self, **configs: Any) -> None:
        net = NetworkSelector(**configs)
        super().__init__(net=net, manager=ConnectionManager(net, **configs), **configs)
