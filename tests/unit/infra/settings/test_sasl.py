from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BadSetting
from infra.process.environment import environment
from infra.settings import load
from infra.settings.sources import sources

SECRET = "hunter2"
ENDPOINT = {"token_url": "https://login.example.org/token", "client_id": "retouch", "client_secret": SECRET}
PROVIDER = {"token_provider": "tests.support.token_providers:signed", "token_arguments": {"region": "eu-central-1"}}
EXTENDED = {"extensions": {"logicalCluster": "lkc-abc123", "identityPoolId": "pool-a1"}}
PLAIN = {"sasl_mechanism": "PLAIN", "sasl_username": "ada", "sasl_password": SECRET}


def oauthbearer(**oauth: object) -> dict[str, object]:
    return {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth": oauth}


def refusal(kafka: dict[str, object]) -> str:
    with pytest.raises(BadSetting) as raised:
        load(kafka=kafka)
    assert SECRET not in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "oauth", [ENDPOINT, ENDPOINT | {"scope": "kafka other"}, ENDPOINT | {"token_url": "http://127.0.0.1:8080/token"}, PROVIDER, PROVIDER | EXTENDED]
)
def test_one_source_of_tokens_is_accepted_and_reaches_children(oauth: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(kafka=oauthbearer(**oauth))
    assert SECRET not in repr(settings) + str([setting.value for setting in sources(settings)])
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load() == settings


def test_settings_of_a_token_provider_can_be_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER", "OAUTH__TOKEN_PROVIDER": PROVIDER["token_provider"]}
    for name, value in (variables | {"OAUTH__TOKEN_ARGUMENTS": '{"region": "eu-central-1"}'}).items():
        monkeypatch.setenv(f"RETOUCH_KAFKA__{name}", str(value))
    assert load().kafka.oauth.token_arguments == {"region": "eu-central-1"}


@pytest.mark.parametrize(
    ("kafka", "problem"),
    [
        (oauthbearer(), "needs oauth.token_url, or oauth.token_provider"),
        (oauthbearer(**ENDPOINT) | {"sasl_username": "ada", "sasl_password": SECRET}, "OAUTHBEARER takes no sasl_username and no sasl_password"),
        (oauthbearer(**ENDPOINT, **PROVIDER), "kafka.oauth: token_url and token_provider exclude each other"),
        (oauthbearer(token_url=ENDPOINT["token_url"]), "token_url needs client_id and client_secret"),
        (oauthbearer(**PROVIDER, client_secret=SECRET), "client_secret needs token_url"),
        (oauthbearer(**ENDPOINT, token_arguments={"region": "x"}), "token_arguments needs token_provider"),
        (oauthbearer(**EXTENDED), "extensions needs token_url or token_provider"),
        (oauthbearer(**ENDPOINT) | PLAIN, "only with sasl_mechanism=OAUTHBEARER, which is PLAIN"),
        ({"security_protocol": "SASL_SSL"}, "security_protocol=SASL_SSL needs sasl_mechanism"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "ada"}, "sasl_mechanism=PLAIN needs sasl_username and sasl_password"),
        (PLAIN, "sasl_mechanism and sasl_username and sasl_password: only with security_protocol=SASL_SSL or SASL_PLAINTEXT, which is PLAINTEXT"),
        ({"oauth": ENDPOINT}, "oauth.token_url and oauth.client_id and oauth.client_secret: only with security_protocol=SASL_SSL"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(kafka: dict[str, object], problem: str) -> None:
    assert problem in refusal(kafka)


@pytest.mark.parametrize(
    ("oauth", "problem"),
    [
        (ENDPOINT | {"token_url": "http://login.example.org/token"}, "would send the client's secret unencrypted: write https://login.example.org/token"),
        (ENDPOINT | {"token_url": f"https://ada:{SECRET}@login.example.org/"}, "kafka.oauth.token_url"),
        (ENDPOINT | {"scope": 'kafka "other"'}, "kafka.oauth.scope="),
        (ENDPOINT | {"cafile": "/nowhere/ca.pem"}, "kafka.oauth.cafile='/nowhere/ca.pem': there is no such file"),
        (PROVIDER | {"extensions": {"auth": "x"}}, "kafka.oauth.extensions: has the name 'auth'"),
        (PROVIDER | {"extensions": {"logical-cluster": "x"}}, "has the name 'logical-cluster': a name has letters only"),
        (PROVIDER | {"extensions": {"logicalCluster": ""}}, "has for logicalCluster a value that is empty"),
        (PROVIDER | {"extensions": {"logicalCluster": "a\x01b"}}, "has for logicalCluster a value that is empty or not printable ASCII"),
        ({"token_provider": "signer.sign"}, "kafka.oauth.token_provider='signer.sign': must be module:function"),
        ({"token_provider": "no_such_signer:sign"}, "there is no module no_such_signer: install its package, or add its folder to PYTHONPATH"),
        ({"token_provider": "tests.support.token_providers:sign"}, "module tests.support.token_providers has no sign"),
        ({"token_provider": "tests.support.token_providers:CLIENT"}, "is a str, not a function"),
    ],
)
def test_a_source_of_tokens_that_cannot_work_is_refused_by_its_name(oauth: dict[str, object], problem: str) -> None:
    assert problem in refusal(oauthbearer(**oauth))


def test_a_provider_whose_module_raises_is_refused_without_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_signer.py").write_text(f"raise RuntimeError('{SECRET}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "module broken_signer cannot be imported (RuntimeError)" in refusal(oauthbearer(token_provider="broken_signer:sign"))
