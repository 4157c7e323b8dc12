"""The local broker: Apache Kafka in KRaft mode, one node, on loopback, with durable data below the state directory.

It has no security and no replication; a cluster's Kafka has both. `lab.cluster` starts one of three nodes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

from infra.errors import BadSetting, CannotContinue
from infra.local.kafka_node import SMALL_PROPERTIES, START_TIMEOUT_S, KafkaNode, accepts, require_free
from infra.process.ports import free_port, why_taken
from infra.settings import Settings

PROTOCOLS = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
#: Of a single node.
FIXED_PROPERTIES = SMALL_PROPERTIES | {
    "node.id": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A killed broker starts again only after this time. A broker whose heartbeats are late on a busy machine takes no new topics until the next one.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "300",
}


class Broker(KafkaNode):
    """One Kafka node. Its directory keeps the ports, so a restarted broker has the same address.

    With `proxy_port` it has a second listener on `proxied_port`, which advertises `proxy_port` of the same host: a client that connects through a proxy
    on that port keeps using the proxy.
    """

    def __init__(self, settings: Settings, *, proxy_port: int = 0) -> None:
        self._settings = settings.stack
        self._proxy_port = proxy_port
        self.proxied_port = free_port(settings.stack.host) if proxy_port else 0
        self.port = 0
        state = settings.stack.dir.resolve()
        super().__init__("broker", state / "kafka", state / "logs" / "broker.log", settings.stack.cache_dir.resolve())

    @property
    def bootstrap_servers(self) -> str:
        return f"{self._settings.host}:{self.port}"

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Block until the broker answers. Raises CannotContinue with the end of its log if it ends or `timeout_s` passes."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if not self.child.is_running:
                raise CannotContinue(f"the broker ended with exit code {self.child.exit_code}; end of {self.child.log}:\n{self.child.last_lines()}")
            if time.monotonic() > deadline:
                raise CannotContinue(f"the broker did not answer within {timeout_s:.0f} s; end of {self.child.log}:\n{self.child.last_lines()}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether the broker answers a client. Blocks for at most a few seconds."""
        if not accepts(self._settings.host, self.port):
            return False
        from kafka import KafkaAdminClient
        from kafka.errors import RetriableError

        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers, client_id="retouch-broker-wait", bootstrap_timeout_ms=2000)
            try:
                admin.describe_cluster()
            finally:
                admin.close()
        except RetriableError:
            return False
        return True

    def start(self) -> None:
        """Launch the broker and wait until it answers. Kills it if it does not."""
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.child.kill()
            raise

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _choose_ports(self) -> int:
        host, configured = self._settings.host, self._settings.broker_port
        self.port, controller = _ports(self._properties_file) or (0, free_port(host))
        if configured and (reason := why_taken(host, configured)):
            raise BadSetting(f"stack.broker_port={configured}: port is taken on {host} ({reason}); stop that program or choose another, 0 takes a free one")
        if self.port and not configured:
            require_free(host, self.port, "stop that program, or set stack.broker_port to another port")
        self.port = configured or self.port or free_port(host)
        require_free(host, controller, f"stop that program, or remove {self.dir} to start with an empty broker on another port")
        return controller

    def _properties(self, controller: int, data: str) -> dict[str, str]:
        host = self._settings.host
        listeners, advertised, protocols = f"PLAINTEXT://{host}:{self.port},CONTROLLER://{host}:{controller}", f"PLAINTEXT://{host}:{self.port}", PROTOCOLS
        if self._proxy_port:
            listeners += f",PROXIED://{host}:{self.proxied_port}"
            advertised += f",PROXIED://{host}:{self._proxy_port}"
            protocols += ",PROXIED:PLAINTEXT"
        return FIXED_PROPERTIES | {
            "listeners": listeners,
            "advertised.listeners": advertised,
            "listener.security.protocol.map": protocols,
            "controller.quorum.bootstrap.servers": f"{host}:{controller}",
            "log.dirs": data,
        }


def _ports(properties: Path) -> tuple[int, int] | None:
    """The client and controller ports in the properties file, if there is one."""
    if not properties.exists():
        return None
    for line in properties.read_text().splitlines():
        if line.startswith("listeners="):
            client, controller = (int(listener.rsplit(":", 1)[1]) for listener in line.split(",")[:2])
            return client, controller
    return None
