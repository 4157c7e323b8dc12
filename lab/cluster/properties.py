"""The server.properties of one node. Pure.

Nodes and the lab's administrator use the listeners INTERNAL and CONTROLLER, where a client's certificate is its name. Everyone else uses CLIENT.
"""

from __future__ import annotations

from infra.local.kafka_node import SMALL_PROPERTIES
from lab.cluster.layout import NODES, ClusterLayout, NodeLayout, node_name

#: The super user: by certificate on INTERNAL, by password on CLIENT.
ADMIN = "admin"
#: PEM files in a node's directory.
KEYSTORE, TRUSTSTORE = "keystore.pem", "truststore.pem"

#: Every record is on three nodes and acknowledged by two. Timeouts are Kafka's own, so a node that is killed is missed after 9 s.
REPLICATED = SMALL_PROPERTIES | {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "inter.broker.listener.name": "INTERNAL",
}
_TLS = {
    "ssl.keystore.type": "PEM",
    "ssl.keystore.location": KEYSTORE,
    "ssl.truststore.type": "PEM",
    "ssl.truststore.location": TRUSTSTORE,
    "ssl.principal.mapping.rules": "RULE:^CN=([^,]+)$/$1/,DEFAULT",
    "listener.name.internal.ssl.client.auth": "required",
    "listener.name.controller.ssl.client.auth": "required",
}
_SCRAM = {
    "sasl.enabled.mechanisms": "SCRAM-SHA-512",
    "listener.name.client.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
}
_ACLS = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "allow.everyone.if.no.acl.found": "false"}


def node_properties(node: NodeLayout, layout: ClusterLayout, data: str) -> dict[str, str]:
    """`data`: the name of the data directory in the node's directory."""
    security, host = layout.security, layout.host
    addresses = {"CLIENT": f"CLIENT://{host}:{node.client_port}", "INTERNAL": f"INTERNAL://{host}:{node.internal_port}"}
    protocols = {"CLIENT": security.protocol, "INTERNAL": security.internal_protocol, "CONTROLLER": security.internal_protocol}
    properties = REPLICATED | {
        "node.id": str(node.id),
        "listeners": ",".join((*addresses.values(), f"CONTROLLER://{host}:{node.controller_port}")),
        "advertised.listeners": ",".join(addresses.values()),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "controller.quorum.bootstrap.servers": ",".join(f"{host}:{each.controller_port}" for each in layout.nodes),
        "log.dirs": data,
    }
    properties |= _TLS if security.tls else {}
    properties |= _SCRAM if security.scram else {}
    return properties | (_ACLS | {"super.users": ";".join(f"User:{name}" for name in super_users(layout))} if security.acls else {})


def super_users(layout: ClusterLayout) -> tuple[str, ...]:
    """The nodes and the administrator. Without TLS the internal listener cannot tell them from others on this machine."""
    return (*map(node_name, NODES), ADMIN, *(() if layout.security.tls else ("ANONYMOUS",)))


def initial_controllers(layout: ClusterLayout) -> str:
    """The quorum for the storage tool."""
    return ",".join(f"{node.id}@{layout.host}:{node.controller_port}:{node.directory_id}" for node in layout.nodes)
