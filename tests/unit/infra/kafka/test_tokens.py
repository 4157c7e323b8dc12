"""Access tokens, from a real endpoint on this machine and from functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.kafka import token_request, tokens
from infra.kafka.token_request import TokenAway, TokenRefused, request_token
from infra.kafka.tokens import KafkaTokens, NoToken, TokenSource, token_source
from infra.settings.sasl import OAuthSettings
from lab.cluster.certificates import Authority
from tests.support.token_endpoint import CLIENT, SECRET, TokenEndpoint, closed_port, token_endpoint, unsigned_jwt
from tests.support.token_providers import REGION

#: A bound for a busy machine, of a wait that ends early.
WAIT_S = 60.0


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with token_endpoint() as running:
        yield running


class CountingLock:
    """`entered` counts the threads that hold it, wait for it or have held it."""

    def __init__(self) -> None:
        self.entered = 0
        self._lock, self._counting = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._counting:
            self.entered += 1
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def oauth(url: str, **changes: object) -> OAuthSettings:
    return OAuthSettings.model_validate({"token_url": url, "client_id": CLIENT, "client_secret": SECRET} | changes)


def provided(function: str, **arguments: str) -> TokenSource:
    return token_source(OAuthSettings(token_provider=f"tests.support.token_providers:{function}", token_arguments=arguments))


def test_a_token_is_requested_with_client_credentials(endpoint: TokenEndpoint) -> None:
    token, lifetime_s = request_token(oauth(endpoint.url, scope="kafka other"))
    assert token.startswith("ey") and lifetime_s == endpoint.lifetime_s
    assert endpoint.forms == [{"grant_type": "client_credentials", "scope": "kafka other"}]


def test_an_endpoint_over_tls_is_trusted_by_its_authority_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    with token_endpoint(authority.sign("endpoint")) as endpoint:
        assert request_token(oauth(endpoint.url, cafile=authority.cafile))[0]
        with pytest.raises(TokenRefused, match=r"has a certificate that is not trusted .*kafka\.oauth\.cafile"):
            request_token(oauth(endpoint.url))


@pytest.mark.parametrize(
    ("status", "answer", "problem"),
    [
        (401, b'{"error": "invalid_client"}', "answers 401 invalid_client: kafka.oauth.client_id=retouch and kafka.oauth.client_secret must be"),
        (403, b"<html>", "answers 403: kafka.oauth.client_id=retouch"),
        (400, b'{"error": "invalid_scope"}', "answers 400 invalid_scope: kafka.oauth.scope="),
        (400, b'{"error": "unauthorized_client"}', "allow the grant client_credentials for client retouch"),
        (400, b'{"error": "the secret is: right secret"}', "answers 400: is kafka.oauth.token_url right?"),
        (302, b"", "answers 302: is kafka.oauth.token_url right?"),
        (200, b"<html>", "answers without an access_token"),
        (200, b'{"access_token": ["x"]}', "answers without an access_token"),
        (200, b"[" * 100_000, "answers without an access_token"),
    ],
)
def test_a_refusal_of_the_endpoint_says_what_would_be_right(status: int, answer: bytes, problem: str, endpoint: TokenEndpoint) -> None:
    endpoint.status, endpoint.answer = status, answer
    with pytest.raises(TokenRefused) as raised:
        request_token(oauth(endpoint.url))
    text = str(raised.value)
    assert f"the token endpoint {endpoint.url} {problem}" in text or problem in text, text
    assert "right secret" not in text


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_fails_for_now_is_away(status: int, endpoint: TokenEndpoint) -> None:
    endpoint.status = status
    with pytest.raises(TokenAway, match=f"answers {status}"):
        request_token(oauth(endpoint.url))


def test_an_endpoint_that_nobody_listens_at_is_away() -> None:
    with pytest.raises(TokenAway, match="cannot be reached"):
        request_token(oauth(f"http://127.0.0.1:{closed_port()}/token"))


def test_an_endpoint_that_sends_byte_by_byte_is_away_after_the_bound(endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_request, "REQUEST_S", 0.5)
    endpoint.byte_pause_s = 0.2  # each read succeeds, the whole answer takes minutes
    with pytest.raises(TokenAway, match=r"did not finish its answer within 0\.5 s"):
        request_token(oauth(endpoint.url))


def test_one_request_serves_all_clients_until_the_token_is_due(endpoint: TokenEndpoint) -> None:
    sources = [token_source(oauth(endpoint.url)) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda number: sources[number % 2].token(), range(16)))
    assert len(found) == 1 and len(endpoint.forms) == 1


def test_a_token_is_renewed_before_its_end(endpoint: TokenEndpoint) -> None:
    endpoint.lifetime_s = 2.0
    source = token_source(oauth(endpoint.url))
    first, deadline = source.token(), time.monotonic() + WAIT_S
    while source.token() == first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert source.token() != first and len(endpoint.forms) > 1


def test_a_valid_token_is_used_while_the_endpoint_is_away() -> None:
    answers = iter([("first", 100.0)])

    def request() -> tuple[str, float | None]:
        for answer in answers:
            return answer
        raise TokenAway("away")

    source = TokenSource(request, "a test")
    assert source.token() == "first"
    source._token = tokens.Token("first", renew_at=0.0, ends_at=time.monotonic() + WAIT_S)
    assert source.token() == source.token() == "first"
    source._token = tokens.Token("first", renew_at=0.0, ends_at=0.0)
    with pytest.raises(TokenAway):
        source.token()


def test_callers_that_wait_for_a_failed_request_share_its_failure() -> None:
    requests, begun, may_fail = [], threading.Event(), threading.Event()

    def request() -> tuple[str, float | None]:
        requests.append(1)
        begun.set()
        assert may_fail.wait(WAIT_S)
        raise TokenAway("away")

    source = TokenSource(request, "a test")
    lock = source._lock = CountingLock()  # type: ignore[assignment]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(source.token)
        assert begun.wait(WAIT_S)
        others = [pool.submit(source.token) for _ in range(3)]
        while lock.entered <= len(others):
            time.sleep(0.01)
        may_fail.set()
        assert all(isinstance(call.exception(WAIT_S), TokenAway) for call in (first, *others))
    assert len(requests) == 1


def test_a_provider_may_return_a_token_alone_or_with_its_end() -> None:
    assert provided("plain").token().startswith("ey")
    source = provided("signed", region=REGION)
    assert source.token() == source.token()  # it has not ended


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "problem"),
    [
        ("signed", {}, TokenRefused, "raised TypeError: do kafka.oauth.token_arguments (none) fit it?"),
        ("failing", {}, TokenAway, "raised LookupError: does it have what it needs"),
        ("nothing", {}, TokenRefused, "returned no token"),
    ],
)
def test_a_provider_that_fails_is_named(function: str, arguments: dict[str, str], kind: type[Exception], problem: str) -> None:
    with pytest.raises(kind) as raised:
        provided(function, **arguments).token()
    assert f"kafka.oauth.token_provider=tests.support.token_providers:{function} {problem}" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("text", "lifetime_s"), [("a\x01b", 60.0), ("", 60.0), ("right", 0.0), ("right", -5.0)])
def test_a_text_that_is_no_token_or_has_ended_is_refused_and_not_repeated(text: str, lifetime_s: float) -> None:
    with pytest.raises(TokenRefused) as raised:
        TokenSource(lambda: (text, lifetime_s), "a test").token()
    assert "a\x01b" not in str(raised.value)


def test_a_token_that_does_not_come_is_away_after_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKEN_S", 0.2)
    never = threading.Event()

    def request() -> tuple[str, float | None]:
        never.wait(WAIT_S)
        return "late", None

    with pytest.raises(TokenAway, match=r"gave no token within 0\.2 s"):
        TokenSource(request, "a test").token()
    never.set()


def test_no_representation_holds_the_token() -> None:
    text = unsigned_jwt(60)
    source = TokenSource(lambda: (text, 60.0), "a test")
    provider = KafkaTokens(source, {})
    assert provider.token() == text
    assert text not in repr(source) + repr(provider) + repr(source._token)


def test_a_kafka_client_gets_an_error_of_its_own_kind() -> None:
    with pytest.raises(NoToken) as raised:
        KafkaTokens(provided("failing"), {}).token()
    assert isinstance(raised.value.__cause__, TokenAway)
