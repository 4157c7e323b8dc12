"""Addresses of the stack's processes with proxies before the broker and the base model."""

from __future__ import annotations

from infra.local.proxy_addresses import ProxyPorts
from infra.settings import load

REAL = load(kafka={"bootstrap_servers": "127.0.0.1:9"}, base={"url": "http://127.0.0.1:8/v1"})


def test_without_proxies_the_settings_are_unchanged() -> None:
    assert ProxyPorts().settings_for("base", REAL) == REAL


def test_a_process_gets_the_addresses_of_the_proxies() -> None:
    settings = ProxyPorts(broker_port=5, base_port=6).settings_for("base", REAL)
    assert (settings.kafka.bootstrap_servers, settings.base.url) == ("127.0.0.1:5", "http://127.0.0.1:6/v1")


def test_the_base_endpoint_listens_at_its_real_address() -> None:
    assert ProxyPorts(broker_port=5, base_port=6).settings_for("base-endpoint", REAL).base.url == "http://127.0.0.1:8/v1"


def test_an_address_that_is_not_known_yet_stays_empty() -> None:
    settings = ProxyPorts(broker_port=5, base_port=6).settings_for("registry", load())
    assert (settings.kafka.bootstrap_servers, settings.base.url) == (None, None)
