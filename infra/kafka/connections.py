"""kafka-python's connections, with the reason why they fail.

kafka-python 3.0.12 retries every failed connection until its bootstrap times out, and then says only that. Ours differ in five things:

- a bootstrap ends with AccessRefused at the second certain refusal, if every address has failed, or in time at an uncertain one; with BrokerAway if no
  address is reached in time;
- a failed bootstrap closes its sockets and ends its thread;
- names are resolved in a thread first, because a resolver may block longer than the bootstrap may take;
- an access token is requested before the first connection, not on the thread of the connections;
- sockets are those of `infra.kafka.transports`.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from infra.kafka.connection_failures import AccessRefused, BrokerAway, Failure, Stage, failure, unknown_name
from infra.kafka.token_request import TokenRefused
from infra.kafka.tokens import TOKEN_S, KafkaTokens, NoToken, bounded
from infra.kafka.transports import open_transport
from infra.settings.stream import KafkaSettings

#: How long a client tries to reach a broker before it raises BrokerAway.
REACH_S = 6.0
#: Refusals without a success in between after which a client gives up. One may be by chance, in a broker that starts or stops.
REFUSALS = 2
RETRY_PAUSE_S = 0.3
#: A bootstrap ends by itself at its deadline, unless the broker takes a request for metadata and does not answer it.
GRACE_MS = 500


def net_client(kafka: KafkaSettings) -> Callable[..., KafkaNetClient]:
    """Makes the network client of a Kafka client; for the option `kafka_client`."""

    def make(**configs: Any) -> KafkaNetClient:
        net = NetworkSelector(**configs)
        return KafkaNetClient(net=net, manager=Connections(kafka, net, **configs), **configs)

    return make


class Connections(KafkaConnectionManager):  # type: ignore[misc]  # the client has no types
    def __init__(self, kafka: KafkaSettings, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self._kafka = kafka
        self._refusals = 0
        self._last_refusal: Failure | None = None
        self._last_failure: Failure | None = None
        self._failed: set[Any] = set()

    @property
    def refusal(self) -> AccessRefused | None:
        """Set while the broker refuses this client: since the last connection that worked, several were refused for certain."""
        if self._last_refusal is None or self._refusals < REFUSALS:
            return None
        return AccessRefused(self._last_refusal.text)

    def bootstrap(self, timeout_ms: int | None = None, refresh: bool = True) -> None:
        """Raises AccessRefused and BrokerAway, and other errors of the client. Blocks for `timeout_ms`, or for one request of a token if that takes longer."""
        deadline = time.monotonic() + (REACH_S if timeout_ms is None else timeout_ms / 1000)
        try:
            self._request_token(deadline)
            self._resolve(deadline)
            left_ms = max(0.0, deadline - time.monotonic()) * 1000
            self._net.run(self.wait_for, self.bootstrap_async(left_ms, refresh), left_ms + GRACE_MS)
            self._succeeded()
        except BaseException as error:
            self.close()
            self._net.close()
            if isinstance(error, KafkaTimeoutError) and not isinstance(error, BrokerAway):
                raise self._not_reached() from None
            raise

    def get_connection(self, node_id: Any, timeout_ms: float | None = None, **options: Any) -> Any:
        """Raises AccessRefused, which ends a bootstrap, but only a bootstrap: later callers do not expect it."""
        addresses = {broker.node_id for broker in self.cluster.bootstrap_brokers()}
        if not self.bootstrapped and addresses <= self._failed and (refusal := self.refusal):
            raise refusal
        before = self._conns.get(node_id)
        conn = super().get_connection(node_id, timeout_ms, **options)
        if conn is not before:
            self._watch(conn, node_id)
        return conn

    def _watch(self, conn: Any, node_id: Any) -> None:
        node = self.cluster.broker_metadata(node_id)
        address = f"{node.host}:{node.port}"
        had_version = conn.broker_version_data is not None

        def failed(error: BaseException) -> None:
            if self.closed:
                return
            answered = conn.broker_version_data is not None and not had_version
            stage = Stage.CONNECTING if conn.parser is None else Stage.LOGIN if answered or had_version else Stage.FIRST_ANSWER
            self._count(node_id, failure(error, address, stage, self._kafka))

        def succeeded(_: bool) -> None:
            if self.bootstrapped:
                self._succeeded()
            else:  # a broker that expects a login answers the first request of a client without one
                conn.close_future.add_errback(lambda error: self._count(node_id, failure(error, address, Stage.REQUESTS, self._kafka)))

        conn.init_future.add_callback(succeeded)
        conn.init_future.add_errback(failed)

    def _count(self, node_id: Any, what: Failure) -> None:
        self._failed.add(node_id)
        if not what.is_silent or self._last_failure is None:  # an attempt that the deadline cuts off says less than those before it
            self._last_failure = what
        if what.is_refusal and what.is_certain:
            self._last_refusal = what
            self._refusals += 1

    def _succeeded(self) -> None:
        self._refusals, self._last_refusal, self._last_failure = 0, None, None
        self._failed.clear()

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        return await open_transport(self._net, node.host, node.port, self.config, timeout_at)

    def _request_token(self, deadline: float) -> None:
        tokens: KafkaTokens | None = self.config["sasl_oauth_token_provider"]
        while tokens is not None:
            try:
                tokens.token()
            except NoToken as error:
                if isinstance(error.__cause__, TokenRefused):
                    raise AccessRefused(str(error.__cause__)) from None
                if time.monotonic() + TOKEN_S > deadline:
                    raise BrokerAway(str(error.__cause__)) from None
                time.sleep(RETRY_PAUSE_S)
            else:
                return

    def _resolve(self, deadline: float) -> None:
        """Returns when a host has an address. Raises BrokerAway at the deadline."""
        brokers = [broker for broker in self.cluster.bootstrap_brokers() if not _is_ip(broker.host)]
        if len(brokers) < len(self.cluster.bootstrap_brokers()):
            return
        while time.monotonic() < deadline:
            for broker in brokers:
                if _has_address(broker.host, broker.port, max(0.0, deadline - time.monotonic())):
                    return
            time.sleep(RETRY_PAUSE_S)
        raise BrokerAway(unknown_name(", ".join(f"{broker.host}:{broker.port}" for broker in brokers)))

    def _not_reached(self) -> KafkaError:
        if last := self._last_refusal or (self._last_failure if self._last_failure and self._last_failure.is_refusal else None):
            return AccessRefused(last.text)
        servers = ",".join(self.config["bootstrap_servers"])
        return BrokerAway(self._last_failure.text if self._last_failure else f"{servers} gives no answer: is it a Kafka broker that works?")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _has_address(host: str, port: int, timeout_s: float) -> bool:
    try:
        return bool(bounded(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), timeout_s))
    except (OSError, UnicodeError, TimeoutError):
        return False
