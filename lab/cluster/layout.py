"""The layout of a cluster: ids, ports and security. `cluster.json` in the state directory keeps it, so that a cluster that starts again has its addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from infra.errors import BadSetting, CannotContinue
from infra.local.kafka_node import random_id
from infra.process.ports import free_port

NODES = (1, 2, 3)
RECORD = "cluster.json"


class Security(BaseModel):
    """What the cluster asks of its clients."""

    model_config = ConfigDict(frozen=True)

    tls: bool = True  # encrypted connections; nodes also identify each other by certificates
    scram: bool = True  # users with passwords, by SCRAM-SHA-512
    acls: bool = True  # a user may do only what an ACL allows

    @property
    def protocol(self) -> str:
        """Kafka's name of the clients' protocol."""
        if self.scram:
            return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"
        return "SSL" if self.tls else "PLAINTEXT"

    @property
    def internal_protocol(self) -> str:
        """Between the nodes, and from the lab's administrator to them."""
        return "SSL" if self.tls else "PLAINTEXT"

    def check(self) -> None:
        """Raises BadSetting for ACLs without users: then nobody could be allowed anything."""
        if self.acls and not self.scram:
            raise BadSetting("ACLs allow users, and without SCRAM the cluster has none: leave SCRAM on, or add --no-acls")


class NodeLayout(BaseModel):
    """One node. `directory_id` identifies its data to the controllers' quorum (KIP-853)."""

    model_config = ConfigDict(frozen=True)

    id: int
    directory_id: str
    client_port: int
    internal_port: int
    controller_port: int

    @property
    def name(self) -> str:
        return node_name(self.id)


class ClusterLayout(BaseModel):
    """Content of `cluster.json`."""

    model_config = ConfigDict(frozen=True)

    cluster_id: str
    host: str
    security: Security
    nodes: tuple[NodeLayout, ...]

    @model_validator(mode="after")
    def _nodes_are_those_of_the_lab(self) -> Self:
        if tuple(node.id for node in self.nodes) != NODES:
            raise ValueError(f"nodes must be {NODES}")
        return self

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"{self.host}:{node.client_port}" for node in self.nodes)


def node_name(number: int) -> str:
    """The name of a node's process, its certificate and its principal."""
    return f"broker-{number}"


def new_layout(host: str, security: Security) -> ClusterLayout:
    """A layout with free ports."""
    ports: list[int] = []
    while len(ports) < 3 * len(NODES):
        if (port := free_port(host)) not in ports:
            ports.append(port)
    nodes = tuple(
        NodeLayout(id=number, directory_id=random_id(), client_port=client, internal_port=internal, controller_port=controller)
        for number, client, internal, controller in zip(NODES, ports[::3], ports[1::3], ports[2::3], strict=True)
    )
    return ClusterLayout(cluster_id=random_id(), host=host, security=security, nodes=nodes)


def layout_of(state: Path, host: str, security: Security) -> ClusterLayout:
    """The layout in the state directory, or a new one, which is written there. Raises CannotContinue if it has other security, or cannot be read or written."""
    path = state / RECORD
    try:
        if path.exists():
            return _same(ClusterLayout.model_validate_json(path.read_bytes()), path, host, security)
        layout = new_layout(host, security)
        state.mkdir(parents=True, exist_ok=True)
        path.write_text(layout.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except ValidationError:
        raise CannotContinue(f"{path} does not describe a cluster of the lab: remove {state}, or choose another --out") from None
    except OSError as error:
        raise CannotContinue(f"cannot write the cluster's state to {state}: {error.strerror or error}; choose another --out") from error
    return layout


def _same(layout: ClusterLayout, path: Path, host: str, security: Security) -> ClusterLayout:
    if (layout.host, layout.security) != (host, security):
        asked = ", ".join(f"{name} {'on' if value else 'off'}" for name, value in layout.security)
        raise CannotContinue(f"{path}: this cluster listens on {layout.host} with {asked}; start it the same way, or choose another --out")
    return layout
