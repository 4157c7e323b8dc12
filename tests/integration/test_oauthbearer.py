"""SASL OAUTHBEARER against a real broker and a real token endpoint: every kind of client, and the whole streams process over sessions that end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from infra.kafka.clients import admin, producer
from infra.kafka.connection_failures import AccessRefused, BrokerAway
from infra.kafka.topic_reader import TopicReader
from infra.process.environment import environment
from infra.process.lifecycle import OK
from infra.settings import Settings, load
from lab.cluster.certificates import Authority
from schemas.topics import DRAFTS, INTERACTIONS, QUERIES
from tests.support.connected_clients import check_clients, check_faust
from tests.support.secure_broker import SecureBroker, secure_broker
from tests.support.streams_process import StreamsClient, draft, running
from tests.support.token_endpoint import CLIENT, SECRET, TokenEndpoint, closed_port, token_endpoint
from tests.support.token_providers import REGION

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

#: A bound for a busy machine.
WAIT_S = 120.0
EXTENSIONS = {"logicalCluster": "lkc-abc123", "identityPoolId": "pool-a1"}
PROVIDER = "tests.support.token_providers"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecureBroker]:
    with secure_broker(tmp_path_factory.mktemp("secured"), authority) as running_broker:
        yield running_broker


@pytest.fixture
def endpoint(authority: Authority) -> Iterator[TokenEndpoint]:
    with token_endpoint(authority.sign("endpoint")) as running_endpoint:
        yield running_endpoint


@pytest.fixture
def settings(broker: SecureBroker, authority: Authority, endpoint: TokenEndpoint) -> Settings:
    return oauthbearer(broker, authority, **client(endpoint.url, authority))


def client(url: str, authority: Authority) -> dict[str, Any]:
    return {"token_url": url, "client_id": CLIENT, "client_secret": SECRET, "scope": "kafka", "cafile": authority.cafile}


def oauthbearer(broker: SecureBroker, authority: Authority, **oauth: Any) -> Settings:
    kafka = {"security_protocol": "SASL_SSL", "ssl_cafile": authority.cafile, "sasl_mechanism": "OAUTHBEARER", "oauth": oauth}
    return load(kafka={"bootstrap_servers": f"127.0.0.1:{broker.ports['TOKEN']}", **kafka})


def test_clients_connect_with_tokens_of_an_endpoint(settings: Settings, endpoint: TokenEndpoint) -> None:
    check_clients(settings)
    assert endpoint.forms == [{"grant_type": "client_credentials", "scope": "kafka"}], "the clients share one token"


@pytest.mark.parametrize("oauth", [{"token_provider": f"{PROVIDER}:signed", "token_arguments": {"region": REGION}}, {"token_provider": f"{PROVIDER}:plain"}])
def test_clients_connect_with_tokens_of_a_function(oauth: dict[str, Any], broker: SecureBroker, authority: Authority) -> None:
    check_clients(oauthbearer(broker, authority, **oauth))


def test_extensions_reach_the_broker_with_the_token(broker: SecureBroker, authority: Authority) -> None:
    settings = oauthbearer(broker, authority, token_provider=f"{PROVIDER}:plain", extensions=EXTENSIONS)
    check_clients(settings)
    wrong = settings.kafka.oauth.model_copy(update={"extensions": EXTENSIONS | {"auth": "a name that the broker refuses"}})  # the settings refuse it too
    settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"oauth": wrong})})
    assert "compare kafka.oauth.extensions, issuer" in refused(settings)
    with pytest.raises(KafkaError):
        asyncio.run(check_faust(settings))


def test_clients_go_on_when_their_token_and_session_end(settings: Settings, endpoint: TokenEndpoint) -> None:
    endpoint.lifetime_s = 3.0
    with closing(producer(settings, "test-oauth")) as sender, TopicReader(settings, "test-oauth") as reader:
        reader.follow(QUERIES.name, from_end=True)
        sent, deadline = 0, time.monotonic() + WAIT_S
        while len(endpoint.forms) < 4:  # several sessions
            sender.send(QUERIES.name, value=b"1", key=b"k").get(timeout=WAIT_S)
            sent += 1
            assert time.monotonic() < deadline, endpoint.forms
            time.sleep(0.1)
        while sent:
            assert time.monotonic() < deadline, f"{sent} records are not read"
            sent -= len(reader.poll(0.2))


def test_a_refused_client_and_a_refused_token_are_told_apart(settings: Settings, endpoint: TokenEndpoint) -> None:
    wrong = load(kafka=kafka_values(settings) | {"oauth": oauth_values(settings) | {"client_secret": "wrong"}})
    text = refused(wrong)
    assert f"{endpoint.url} answers 401 invalid_client: kafka.oauth.client_id=retouch and kafka.oauth.client_secret must be" in text and "wrong" not in text
    endpoint.answer = b'{"access_token": "no.unsigned.token"}'
    text = refused(settings)
    assert f"refuses the token of {endpoint.url} (client retouch, scope kafka): compare issuer, audience, scope" in text
    assert "no.unsigned.token" not in text and SECRET not in text


def test_an_endpoint_that_is_away_is_named_and_tried_again(settings: Settings, endpoint: TokenEndpoint) -> None:
    nowhere = f"https://127.0.0.1:{closed_port()}/token"
    away = load(kafka=kafka_values(settings) | {"oauth": oauth_values(settings) | {"token_url": nowhere}})
    with pytest.raises(BrokerAway, match=r"the token endpoint https.* cannot be reached"):
        admin(away)
    endpoint.failures = 3
    admin(settings).close()
    assert not endpoint.failures


def test_the_streams_process_works_over_sessions_that_end(broker: SecureBroker, endpoint: TokenEndpoint, settings: Settings, tmp_path: Path) -> None:
    endpoint.lifetime_s = 4.0
    state = settings.changed(stack={"dir": tmp_path / "state"})
    plain = StreamsClient(load(kafka={"bootstrap_servers": broker.bootstrap_servers}))
    variables = {name: value for name, value in environment(state).items() if name.startswith("RETOUCH_KAFKA__")}
    with closing(plain), running(state, "tests.support.streams_member", **variables) as streams:
        requested = len(endpoint.forms)
        deadline = time.monotonic() + WAIT_S
        while len(endpoint.forms) < requested + 4:  # several sessions
            query = plain.query("a film about the sea")
            plain.send(INTERACTIONS, plain.interaction("a voyage across the sea"))
            plain.send(DRAFTS, draft(query))
            plain.context_of(query)
            assert time.monotonic() < deadline, endpoint.forms
        assert streams.stop() == OK
    assert "eyJ" not in streams.log() and SECRET not in streams.log()


def test_the_streams_process_ends_when_the_broker_refuses_its_next_token(endpoint: TokenEndpoint, settings: Settings, tmp_path: Path) -> None:
    endpoint.lifetime_s = 4.0
    state = settings.changed(stack={"dir": tmp_path / "state"})
    variables = {name: value for name, value in environment(state).items() if name.startswith("RETOUCH_KAFKA__")}
    with running(state, "tests.support.streams_member", **variables) as streams:
        endpoint.answer = b'{"error": "invalid_client"}'
        endpoint.status = 401
        assert streams.wait(WAIT_S) == 1
    assert f"the token endpoint {endpoint.url} answers 401 invalid_client" in streams.log().splitlines()[-1]


def kafka_values(settings: Settings) -> dict[str, Any]:
    names = ("bootstrap_servers", "security_protocol", "ssl_cafile", "sasl_mechanism")
    return {name: getattr(settings.kafka, name) for name in names}


def oauth_values(settings: Settings) -> dict[str, Any]:
    oauth = settings.kafka.oauth
    return {"token_url": oauth.token_url, "client_id": oauth.client_id, "client_secret": oauth.client_secret, "scope": oauth.scope, "cafile": oauth.cafile}


def refused(settings: Settings) -> str:
    with pytest.raises(AccessRefused) as raised:
        admin(settings)
    return str(raised.value)
