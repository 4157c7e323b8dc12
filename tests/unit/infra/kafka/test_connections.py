"""What a client says about an address where no broker answers. `tests/integration/test_broker_security.py` has what a broker refuses."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import admin, producer
from infra.kafka.connection_failures import AccessRefused, BrokerAway, Stage, failure
from infra.kafka.errors import broker_errors
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings, load
from lab.cluster.certificates import Authority
from tests.support.token_endpoint import closed_port, token_endpoint

#: A bound for a busy machine, of a wait that ends early.
WAIT_S = 60.0
QUICK_MS = 1_500


def at(port: int, **kafka: object) -> Settings:
    return load(kafka={"bootstrap_servers": f"127.0.0.1:{port}", **kafka})


def failed(settings: Settings) -> str:
    """The text of BrokerAway, which all clients raise alike."""
    texts = set()
    for make in (admin, producer):
        with pytest.raises(BrokerAway) as raised:
            make(settings, "test-connections", bootstrap_timeout_ms=QUICK_MS)
        texts.add(str(raised.value))
    with pytest.raises(RetryLater) as from_reader:
        TopicReader(settings, "test-connections", timeout_s=QUICK_MS / 1000)
    assert {str(from_reader.value)} == texts
    return texts.pop()


@contextmanager
def closing_server(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, closes: int | None = None) -> Iterator[int]:
    """A load balancer without a broker behind it: it takes connections, with `tls` also the handshake, and closes them; after `closes`, it takes no more."""
    with socket.create_server((host, 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            left = iter(range(closes) if closes is not None else itertools.count())
            while not ended.is_set() and next(left, None) is not None:
                with server.accept()[0] as connection, suppress(OSError):
                    connection.settimeout(WAIT_S)
                    if tls:
                        tls.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            socket.create_connection(server.getsockname()).close()
            thread.join()


def test_an_address_that_nobody_listens_at_is_named() -> None:
    port = closed_port()
    assert f"nothing is reached at 127.0.0.1:{port} (111 ECONNREFUSED): are broker and network up" in failed(at(port))


def test_a_host_that_no_resolver_knows_is_named() -> None:
    assert "the host of no-such-host.invalid:9092 is unknown (DNS)" in failed(load(kafka={"bootstrap_servers": "no-such-host.invalid:9092"}))


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_silent_server_is_given_up(protocol: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        text = failed(at(server.getsockname()[1], security_protocol=protocol))
    assert "gives no answer" in text and f"does that port speak kafka.security_protocol={protocol}?" in text


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_server_that_closes_at_once_is_away_and_refuses_nothing(protocol: str) -> None:
    with closing_server() as port:
        assert f"127.0.0.1:{port} closes the connection before it answers" in failed(at(port, security_protocol=protocol))


def test_an_attempt_that_time_cuts_off_hides_no_reason() -> None:
    with closing_server(closes=1) as port, pytest.raises(BrokerAway, match="closes the connection before it answers"):
        admin(at(port), "test-connections", bootstrap_timeout_ms=4 * QUICK_MS)


def test_a_certificate_for_another_host_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.sign("broker"))
    with closing_server("127.0.0.2", tls) as port, pytest.raises(AccessRefused) as raised:
        admin(load(kafka={"bootstrap_servers": f"127.0.0.2:{port}", "security_protocol": "SSL", "ssl_cafile": authority.cafile}))
    text = str(raised.value)
    assert f"the certificate of the broker at 127.0.0.2:{port} is for another host" in text and "use a host of the certificate" in text


def test_a_server_that_does_not_speak_tls_is_a_refusal() -> None:
    with token_endpoint() as web, pytest.raises(AccessRefused, match=r"does not speak TLS as kafka\.security_protocol=SSL expects"):
        admin(at(web.server_address[1], security_protocol="SSL"))


def test_a_failed_client_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    failed(at(closed_port()))
    assert set(threading.enumerate()) <= before


def test_the_error_of_the_caller_keeps_the_reason_and_a_refusal_stays_one() -> None:
    with pytest.raises(CannotContinue, match="nothing is reached"), broker_errors(at(1), CannotContinue):
        raise BrokerAway("nothing is reached")
    with pytest.raises(AccessRefused, match="refuses"), broker_errors(at(1), RetryLater):
        raise AccessRefused("refuses")


def test_a_refusal_is_no_absence() -> None:
    kafka = at(1, security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="ada", sasl_password="hunter2").kafka
    closed = failure(ConnectionResetError("reset"), "a:1", Stage.LOGIN, kafka)
    assert closed.is_refusal and "refuses kafka.sasl_username=ada with kafka.sasl_password" in closed.text and "hunter2" not in closed.text
