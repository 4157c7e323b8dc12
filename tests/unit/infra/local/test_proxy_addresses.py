"""The addresses that the stack's processes get when proxies stand before the broker and the base model."""

from __future__ import annotations

from infra.local.proxy_addresses import Detour
from infra.settings import load

TRUE = load(kafka={"bootstrap_servers": "127.0.0.1:9"}, base={"url": "http://127.0.0.1:8/v1"})


def test_without_proxies_nothing_changes() -> None:
    assert Detour().of(TRUE, "base") == TRUE


def test_a_process_is_led_through_the_proxies() -> None:
    led = Detour(broker_port=5, base_port=6).of(TRUE, "base")
    assert (led.kafka.bootstrap_servers, led.base.url) == ("127.0.0.1:5", "http://127.0.0.1:6/v1")


def test_the_base_endpoint_listens_at_its_true_address() -> None:
    assert Detour(broker_port=5, base_port=6).of(TRUE, "base-endpoint").base.url == "http://127.0.0.1:8/v1"


def test_an_address_that_is_not_known_yet_stays_empty() -> None:
    led = Detour(broker_port=5, base_port=6).of(load(), "registry")
    assert (led.kafka.bootstrap_servers, led.base.url) == (None, None)
