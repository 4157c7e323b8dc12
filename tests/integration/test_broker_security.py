"""Every kind of client against a broker with security: the clients of kafka-python, and Faust's of aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from infra.kafka.clients import admin, producer
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings, load
from lab.cluster.certificates import Authority
from schemas.topics import QUERIES
from streams.app.app import credentials
from tests.support.secure_broker import PASSWORD, USER, SecureBroker, secure_broker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: A bound for a busy machine.
WAIT_S = 60.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecureBroker]:
    with secure_broker(tmp_path_factory.mktemp("secured"), authority) as broker:
        yield broker


@pytest.mark.parametrize("password", [None, "key-password"])
def test_clients_connect_where_the_broker_asks_for_a_certificate(password: str | None, secured: SecureBroker, authority: Authority) -> None:
    certfile, keyfile = authority.sign(f"client-{password}", password)
    check_clients(kafka_settings(secured, "MTLS", authority, ssl_certfile=certfile, ssl_keyfile=keyfile, ssl_key_password=password))


def test_clients_connect_with_user_and_password(secured: SecureBroker, authority: Authority) -> None:
    check_clients(kafka_settings(secured, "PASSWORD", authority, sasl_mechanism="PLAIN", sasl_username=USER, sasl_password=PASSWORD))


def kafka_settings(broker: SecureBroker, listener: str, authority: Authority, **kafka: Any) -> Settings:
    address, protocol = f"127.0.0.1:{broker.ports[listener]}", "SSL" if listener == "MTLS" else "SASL_SSL"
    return load(kafka={"bootstrap_servers": address, "security_protocol": protocol, "ssl_cafile": authority.cafile, **kafka})


def check_clients(settings: Settings) -> None:
    """Each client connects and is answered."""
    with closing(admin(settings)) as client:
        assert QUERIES.name in client.list_topics()
    with closing(producer(settings, "test-security")) as sender:
        sender.send(QUERIES.name, value=b"1", key=b"k").get(timeout=WAIT_S)
    with TopicReader(settings, "test-security") as reader:
        assert QUERIES.name in reader.topics()
    asyncio.run(check_faust(settings))


async def check_faust(settings: Settings) -> None:
    """A producer of aiokafka with the credentials that the Faust app has."""
    options = credentials_to_aiokafka_auth(credentials(settings.kafka))
    sender = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, **options)
    await sender.start()
    try:
        await asyncio.wait_for(sender.send_and_wait(QUERIES.name, value=b"1", key=b"k"), WAIT_S)
    finally:
        await sender.stop()
