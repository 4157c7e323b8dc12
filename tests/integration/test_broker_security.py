"""Every kind of client against a broker with security: the clients of kafka-python, and Faust's of aiokafka. And what they say about a broker that refuses
them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infra.errors import RetryLater
from infra.kafka.clients import admin, producer
from infra.kafka.connection_failures import AccessRefused
from infra.kafka.group_consumer import GroupConsumer
from infra.kafka.topic_reader import TopicReader
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings, load
from lab.cluster.certificates import Authority
from tests.support.connected_clients import check_clients
from tests.support.secure_broker import PASSWORD, USER, SecureBroker, secure_broker
from tests.support.token_endpoint import closed_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: A bound for a busy machine.
WAIT_S = 60.0
ATTEMPTS = 10
PLAIN = {"sasl_mechanism": "PLAIN", "sasl_username": USER}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "another authority")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecureBroker]:
    with secure_broker(tmp_path_factory.mktemp("secured"), authority) as broker:
        yield broker


@pytest.mark.parametrize("password", [None, "key-password"])
def test_clients_connect_where_the_broker_asks_for_a_certificate(password: str | None, secured: SecureBroker, authority: Authority) -> None:
    certfile, keyfile = authority.sign(f"client-{password}", password)
    check_clients(kafka_settings(secured, "MTLS", authority, ssl_certfile=certfile, ssl_keyfile=keyfile, ssl_key_password=password))


def test_clients_connect_with_user_and_password(secured: SecureBroker, authority: Authority) -> None:
    check_clients(kafka_settings(secured, "PASSWORD", authority, **PLAIN, sasl_password=PASSWORD))


def test_a_wrong_password_is_named_with_its_user(secured: SecureBroker, authority: Authority) -> None:
    text = refusal(kafka_settings(secured, "PASSWORD", authority, **PLAIN, sasl_password="wrong-password"))
    assert "refuses kafka.sasl_username=ada with kafka.sasl_password: set the password of that user" in text


def test_a_wrong_authority_is_named_with_its_file(secured: SecureBroker, other: Authority) -> None:
    text = refusal(kafka_settings(secured, "PASSWORD", other, **PLAIN, sasl_password=PASSWORD))
    assert f"is not signed by kafka.ssl_cafile={other.cafile} (" in text and "set kafka.ssl_cafile to the CA that signed it" in text


def test_a_missing_or_foreign_client_certificate_is_named(secured: SecureBroker, authority: Authority, other: Authority) -> None:
    remedy = "set kafka.ssl_certfile and kafka.ssl_keyfile to a certificate that the broker's CA for clients signed"
    without = refusal(kafka_settings(secured, "MTLS", authority))
    assert "a client without a certificate" in without and remedy in without
    certfile, keyfile = other.sign("client")
    foreign = refusal(kafka_settings(secured, "MTLS", authority, ssl_certfile=certfile, ssl_keyfile=keyfile))
    assert f"kafka.ssl_certfile={certfile}" in foreign and remedy in foreign


def test_another_mechanism_and_a_missing_login_are_named(secured: SecureBroker, authority: Authority) -> None:
    scram = kafka_settings(secured, "PASSWORD", authority, sasl_mechanism="SCRAM-SHA-512", sasl_username=USER, sasl_password=PASSWORD)
    assert "does not take kafka.sasl_mechanism=SCRAM-SHA-512" in refusal(scram)
    assert "closes connections of kafka.security_protocol=SSL at their first request; does it expect a login?" in refusal(
        kafka_settings(secured, "PASSWORD", authority, security_protocol="SSL")
    )


def test_a_member_of_a_group_ends_at_a_refusal_and_does_not_wait(secured: SecureBroker, authority: Authority) -> None:
    from kafka.coordinator.assignors.range import RangePartitionAssignor

    member = GroupConsumer(kafka_settings(secured, "PASSWORD", authority, **PLAIN, sasl_password="wrong-password"), "retouch-test", RangePartitionAssignor)
    assert "refuses kafka.sasl_username=ada" in refused(member.connect)


@pytest.mark.parametrize(
    "command",
    [
        "cli.app topics describe",
        "workers base",
        *(
            pytest.param(each, marks=pytest.mark.long("starts each process three times"))
            for each in ("cli.app dlq list", "cli.app ask --user ada hello", "streams quality")
        ),
    ],
)
def test_commands_and_processes_tell_the_three_causes_apart(
    command: str, secured: SecureBroker, authority: Authority, other: Authority, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{secured.ports['PASSWORD']}"
    nobody = f"127.0.0.1:{closed_port()}"
    causes = {
        "refuses kafka.sasl_username=ada with kafka.sasl_password": (address, authority, "wrong-password"),
        f"is not signed by kafka.ssl_cafile={other.cafile}": (address, other, PASSWORD),
        f"nothing is reached at {nobody} (111 ECONNREFUSED)": (nobody, authority, PASSWORD),
    }
    for text, (servers, trusted, password) in causes.items():
        kafka = {"BOOTSTRAP_SERVERS": servers, "SSL_CAFILE": str(trusted.cafile), "SASL_PASSWORD": password}
        told = next(told for _ in range(ATTEMPTS) if "gives no answer" not in (told := output_until(text, command, tmp_path, kafka)))
        assert text in told, told
        assert not any(unexpected in told for unexpected in causes if unexpected != text), told
        assert password not in told.replace("kafka.sasl_password", "")


def output_until(text: str, command: str, folder: Path, kafka: dict[str, str]) -> str:
    """The command's output until it ends or has this text. A process that waits for a broker that is away is stopped then."""
    common = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "PLAIN", "SASL_USERNAME": USER}
    environment = {f"RETOUCH_KAFKA__{name}": value for name, value in (common | kafka).items()}
    environment |= {"RETOUCH_STACK__DIR": str(folder), "OPENAI_BASE_URL": f"http://127.0.0.1:{closed_port()}/v1"}
    run = subprocess.Popen([sys.executable, "-m", *command.split()], env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert run.stderr is not None
    with run.stderr:
        for line in run.stderr:
            lines.append(line)
            if text in line and "trying again" in line:
                run.terminate()
    assert run.wait(WAIT_S) in (OK, FAILED)
    return "".join(lines)


def kafka_settings(broker: SecureBroker, listener: str, authority: Authority, **kafka: Any) -> Settings:
    address, protocol = f"127.0.0.1:{broker.ports[listener]}", "SSL" if listener == "MTLS" else "SASL_SSL"
    return load(kafka={"bootstrap_servers": address, "security_protocol": protocol, "ssl_cafile": authority.cafile, **kafka})


def refusal(settings: Settings) -> str:
    """The one text that each kind of client raises."""
    texts = {refused(partial(make, settings, "test-security")) for make in (admin, producer, TopicReader)}
    assert len(texts) == 1 and PASSWORD not in str(texts) and "wrong-password" not in str(texts), texts
    return texts.pop()


def refused(connect: Callable[[], object]) -> str:
    """Why the broker refuses this client. On a busy machine the broker may take longer than a client waits: the client tries again then."""
    for _ in range(ATTEMPTS):
        try:
            connect()
        except AccessRefused as error:
            return str(error)
        except RetryLater as error:
            if "gives no answer" not in str(error):
                raise
        else:
            pytest.fail("the broker does not refuse this client")
    pytest.fail(f"the broker gave no answer {ATTEMPTS} times")
