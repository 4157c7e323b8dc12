"""The properties of a node: its listeners, its quorum, its security and its replication."""

from __future__ import annotations

import pytest

from lab.cluster.layout import NODES, ClusterLayout, NodeLayout, Security
from lab.cluster.properties import initial_controllers, node_properties


def layout(security: Security) -> ClusterLayout:
    nodes = tuple(
        NodeLayout(id=number, directory_id=f"dir-{number}", client_port=number, internal_port=10 + number, controller_port=20 + number) for number in NODES
    )
    return ClusterLayout(cluster_id="cluster", host="127.0.0.1", security=security, nodes=nodes)


def properties(security: Security, number: int = 2) -> dict[str, str]:
    of = layout(security)
    return node_properties(of.nodes[number - 1], of, "data")


def test_each_node_listens_on_its_ports_and_knows_all_controllers() -> None:
    of = properties(Security())
    assert of["node.id"] == "2"
    assert of["listeners"] == "CLIENT://127.0.0.1:2,INTERNAL://127.0.0.1:12,CONTROLLER://127.0.0.1:22"
    assert of["advertised.listeners"] == "CLIENT://127.0.0.1:2,INTERNAL://127.0.0.1:12"
    assert of["controller.quorum.bootstrap.servers"] == "127.0.0.1:21,127.0.0.1:22,127.0.0.1:23"
    assert of["listener.security.protocol.map"] == "CLIENT:SASL_SSL,INTERNAL:SSL,CONTROLLER:SSL"


def test_the_quorum_is_formed_by_all_nodes() -> None:
    assert initial_controllers(layout(Security())) == "1@127.0.0.1:21:dir-1,2@127.0.0.1:22:dir-2,3@127.0.0.1:23:dir-3"


def test_what_the_brokers_store_themselves_survives_the_loss_of_one() -> None:
    of = properties(Security())
    assert {of[f"{topic}.replication.factor"] for topic in ("default", "offsets.topic", "transaction.state.log")} == {"3"}
    assert of["min.insync.replicas"] == of["transaction.state.log.min.isr"] == "2"
    assert of["unclean.leader.election.enable"] == "false"


def test_nobody_but_the_super_users_may_do_anything_without_an_acl() -> None:
    of = properties(Security())
    assert of["allow.everyone.if.no.acl.found"] == "false"
    assert of["super.users"] == "User:broker-1;User:broker-2;User:broker-3;User:admin"
    assert of["listener.name.internal.ssl.client.auth"] == of["listener.name.controller.ssl.client.auth"] == "required"


def test_without_tls_the_nodes_themselves_are_anonymous() -> None:
    of = properties(Security(tls=False))
    assert of["super.users"].endswith(";User:ANONYMOUS")
    assert of["listener.security.protocol.map"] == "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
    assert not any(name.startswith("ssl.") for name in of)


@pytest.mark.parametrize(("tls", "scram"), [(True, False), (False, False)])
def test_without_acls_there_is_no_authorizer(tls: bool, scram: bool) -> None:
    of = properties(Security(tls=tls, scram=scram, acls=False))
    assert "authorizer.class.name" not in of and "sasl.enabled.mechanisms" not in of
