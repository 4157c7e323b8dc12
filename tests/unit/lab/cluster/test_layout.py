"""Ports and ids of a cluster, kept from one start to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BadSetting, CannotContinue
from lab.cluster.layout import RECORD, Security, layout_of, new_layout

HOST = "127.0.0.1"


def test_a_cluster_that_starts_again_has_its_ids_and_ports(tmp_path: Path) -> None:
    first = layout_of(tmp_path / "state", HOST, Security())
    assert layout_of(tmp_path / "state", HOST, Security()) == first


def test_no_two_listeners_share_a_port() -> None:
    nodes = new_layout(HOST, Security()).nodes
    assert len({port for node in nodes for port in (node.client_port, node.internal_port, node.controller_port)}) == 9
    assert len({node.directory_id for node in nodes}) == 3


def test_a_cluster_with_other_security_is_not_started(tmp_path: Path) -> None:
    layout_of(tmp_path, HOST, Security())
    with pytest.raises(CannotContinue, match="with tls on, scram on, acls on; start it the same way"):
        layout_of(tmp_path, HOST, Security(tls=False))


@pytest.mark.parametrize("content", ["", "{}", '{"nodes": []}'])
def test_a_file_that_describes_no_cluster_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(CannotContinue, match="does not describe a cluster"):
        layout_of(tmp_path, HOST, Security())


def test_acls_without_users_are_refused() -> None:
    with pytest.raises(BadSetting, match="--no-acls"):
        Security(scram=False).check()


@pytest.mark.parametrize(
    ("tls", "scram", "protocol"), [(True, True, "SASL_SSL"), (True, False, "SSL"), (False, True, "SASL_PLAINTEXT"), (False, False, "PLAINTEXT")]
)
def test_the_protocol_follows_from_the_options(tls: bool, scram: bool, protocol: str) -> None:
    assert Security(tls=tls, scram=scram, acls=False).protocol == protocol
