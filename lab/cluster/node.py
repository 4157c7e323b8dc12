"""One node of the cluster: its process, its ports and its certificate."""

from __future__ import annotations

from pathlib import Path

from infra.local.kafka_node import KafkaNode, require_free
from lab.cluster.certificates import Authority
from lab.cluster.layout import ClusterLayout, NodeLayout
from lab.cluster.properties import KEYSTORE, TRUSTSTORE, initial_controllers, node_properties


class ClusterNode(KafkaNode):
    """One node. `log` is `logs/broker-N.log` in the state directory."""

    place, heap_mib = "--out", 256

    def __init__(self, node: NodeLayout, layout: ClusterLayout, state: Path, cache_dir: Path) -> None:
        super().__init__(node.name, state / node.name, state / "logs" / f"{node.name}.log", cache_dir)
        self._node, self._layout = node, layout

    def _choose_ports(self) -> int:
        for port in (self._node.client_port, self._node.internal_port, self._node.controller_port):
            require_free(self._layout.host, port, "stop that program, or choose another --out")
        return self._node.controller_port

    def _properties(self, controller: int, data: str) -> dict[str, str]:
        return node_properties(self._node, self._layout, data)

    def _format_options(self) -> tuple[str, ...]:
        return ("--cluster-id", self._layout.cluster_id, "--initial-controllers", initial_controllers(self._layout))

    def write_stores(self, authority: Authority) -> None:
        """Write the node's key with its certificate, and the authority, as Kafka reads them from PEM files."""
        self.dir.mkdir(parents=True, exist_ok=True)
        certfile, keyfile = authority.sign(self._node.name)
        keystore = self.dir / KEYSTORE
        keystore.touch(mode=0o600)
        keystore.write_bytes(keyfile.read_bytes() + certfile.read_bytes())
        (self.dir / TRUSTSTORE).write_bytes(authority.cafile.read_bytes())
