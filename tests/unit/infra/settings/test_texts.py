"""URLs, addresses, secrets and paths that cannot work are refused when the settings are loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.errors import BadSetting
from infra.process.environment import environment
from infra.settings import load
from infra.settings.loading import USUAL_NAMES, variable_of
from infra.urls import sqlite_file, sqlite_url
from tests.support.odd_names import ODD

#: Every setting that is a URL.
URLS = ("base.url", "teacher.url", "index.url", "registry.tracking_uri", "telemetry.otlp_endpoint", "promotion.url", "trainer.rl.vllm_url")
#: Every setting that is sent as a header.
HEADERS = ("base.api_key", "teacher.api_key", "index.api_key", "promotion.operator_token")
#: What these are refused without.
NEEDED = {
    "trainer.rl.vllm_url": {"trainer.rl.engine": "trl", "trainer.rl.rollouts": "vllm_server"},
    "teacher.url": {"teacher.kind": "llm"},
    "teacher.api_key": {"teacher.kind": "llm", "teacher.url": "http://127.0.0.1:1/v1"},
    "index.api_key": {"index.url": "http://127.0.0.1:1"},
}
SCRAM = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-256", "sasl_username": "ada", "sasl_password": "x"}
KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("127.0.0.1:8001/v1", "write http://127.0.0.1:8001/v1"),
        ("localhost:8001", "write http://localhost:8001"),
        ("api.example.org/v1", "write https://api.example.org/v1"),
        ('"http://127.0.0.1:8001/v1"', "write http://127.0.0.1:8001/v1"),
        ("'http://127.0.0.1:8001/v1", "write http://127.0.0.1:8001/v1"),
        ("“127.0.0.1:8001/v1”", "write http://127.0.0.1:8001/v1"),
        ("http:/127.0.0.1:8001", "write http://127.0.0.1:8001"),
        ("http//127.0.0.1:8001", "write http://127.0.0.1:8001"),
        ("ws://127.0.0.1:8001/v1", "write http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:8001/v1?key=hunter2", "write http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:8001/v1#top", "write http://127.0.0.1:8001/v1"),
        ("http://ada:hunter2@127.0.0.1:8001/v1", "write http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:99999/v1", "invalid port number"),
        ("http://127.0.0.1:0/v1", "invalid port number"),
        ("http://127.0.0.1:/v1", "invalid port number"),
        ("http://127.0.0.1:$PORT/v1", "invalid port number"),
        ("http://256.0.0.1/v1", "invalid IPv4 address"),
        ("http://[::1/v1", "invalid IPv6 address"),
        ("http:///v1", "no host"),
        ("http://:8001/v1", "no host"),
        ("http://", "no host"),
        ("http://a,b/v1", "invalid host name"),
        (f"http://{'a' * 64}.example/v1", "invalid host name"),
        ("http://api\u200b.example.org/v1", "zero width space inside"),
        ("http://127.0.0.1:8001/a b", "space inside"),
        ("http://127.0.0.1:8001/a\nb", "control character inside"),
        ("http://127.0.0.1:8001\\v1", "reverse solidus inside"),
        ("http://${HOST}/v1", "left curly bracket inside"),
        ("  ", "is empty"),
        ("postgresql://db/v1", "instead of http://"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_what_would_be_right(value: str, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting) as raised:
        _load_from_variable("base.url", value, monkeypatch)
    text = str(raised.value)
    assert text.startswith("base.url") and right in text and "write " in text and "hunter2" not in text and "\n" not in text, text


@pytest.mark.parametrize("key", URLS)
@pytest.mark.parametrize("value", ["127.0.0.1:8001/v1", "http://ada:hunter2@127.0.0.1:8001/v1", '"http://127.0.0.1:8001/v1"', "http://127.0.0.1:99999/v1"])
def test_every_url_has_these_rules(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting) as raised:
        _load_from_variable(key, value, monkeypatch)
    assert str(raised.value).startswith(key) and "write " in str(raised.value) and "hunter2" not in str(raised.value)


@pytest.mark.parametrize("key", URLS)
@pytest.mark.parametrize(
    "value",
    [
        "http://127.0.0.1:8001/v1",
        " https://api.example.org/v1\n",
        "http://[::1]:8001",
        "HTTP://host_1.:80/",
        "https://bücher.example/@team/a@b",
        "http://h/it's",
    ],
)
def test_a_url_that_works_is_taken_without_white_space_around_it(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _load_from_variable(key, value, monkeypatch) == value.strip()


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("::1:9092", "[::1]:9092 for IPv6"),
        ("a:9092,", "write a:9092"),
        (",a:9092,,b:9092", "write a:9092,b:9092"),
        ('"a:9092,b:9092"', "write a:9092,b:9092"),
        ("kafka://a:9092", "write a:9092"),
        ("PLAINTEXT://a:9092/", "write a:9092"),
        ("a b:9092", "host:port"),
        ("a:9092;b:9092", "host:port"),
        ("a:0", "from 1 to 65535"),
        ("a:65536", "from 1 to 65535"),
        ("[::g]:9092", "host:port"),
        (" ", "host:port"),
    ],
)
def test_addresses_of_brokers_that_cannot_work_are_refused(value: str, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting) as raised:
        _load_from_variable("kafka.bootstrap_servers", value, monkeypatch)
    assert f"kafka.bootstrap_servers={value!r}" in str(raised.value) and right in str(raised.value)


@pytest.mark.parametrize("key", HEADERS)
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f"{KEY}\n{KEY}", "line end"),
        (f"{KEY}\r\nHost: elsewhere", "line end"),
        (f"{KEY}\x7f{KEY}", "control character"),
        (f"{KEY}é", "outside ASCII"),
        (f"{KEY}\u200b", "outside ASCII"),
        (f"\ufeff{KEY}", "outside ASCII"),
        (f'"{KEY}"', "quotes around"),
        (f"Bearer {KEY}", "the scheme is added"),
        (" \n", "only white space"),
    ],
)
def test_a_secret_that_no_header_carries_is_refused_and_not_repeated(key: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting) as raised:
        _load_from_variable(key, value, monkeypatch)
    text = str(raised.value)
    assert text.startswith(key) and problem in text and "sk-" not in text and "\n" not in text, text


@pytest.mark.parametrize("key", HEADERS)
def test_white_space_around_a_secret_is_removed(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = _load_from_variable(key, f" {KEY} x\r\n", monkeypatch)
    assert isinstance(secret, SecretStr) and secret.get_secret_value() == f"{KEY} x"


@pytest.mark.parametrize(("name", "key"), [(name, ".".join(parts)) for name, parts in USUAL_NAMES.items()])
def test_the_usual_names_have_the_same_rules_and_are_named(name: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed, text in NEEDED.get(key, {}).items():
        monkeypatch.setenv(variable_of(needed), text)
    monkeypatch.setenv(name, '"quoted"')
    with pytest.raises(BadSetting) as raised:
        load()
    assert str(raised.value).startswith(key) and f"({name}): " in str(raised.value)


@pytest.mark.parametrize("key", ["kafka.bootstrap_servers", "stack.dir", "log_level", *URLS, *HEADERS])
def test_an_empty_variable_counts_as_not_set(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _load_from_variable(key, "", monkeypatch) == _value(load(), key)


def test_an_empty_value_in_the_file_counts_as_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / 'a ë,\\%20?#:;"=.toml'
    file.write_text('[base]\nurl = ""\nmodel = ""\n[kafka]\nbootstrap_servers = ""\n')
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    assert load() == load(base={}) and load().base.url is None and load().base.model == "pico-base"


def test_a_sasl_password_may_hold_spaces_and_any_printable_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_KAFKA__SASL_PASSWORD", ' "pä=ss, wörd" \n')
    password = load(kafka={"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "ada"}).kafka.sasl_password
    assert password and password.get_secret_value() == ' "pä=ss, wörd" '


@pytest.mark.parametrize(
    ("kafka", "problem"),
    [
        ({"sasl_password": "hunter2\nhunter2"}, "kafka.sasl_password: has a line end"),
        ({"sasl_password": "hunter2\0"}, "kafka.sasl_password: has a line end, another control character"),
        ({"sasl_password": "\n"}, "kafka.sasl_password: is empty"),
        ({"sasl_username": "ada\tx"}, "kafka.sasl_username='ada\\tx': has a line end, another control character"),
        (SCRAM | {"sasl_username": "a,b"}, "sasl_username must not hold , or ="),
    ],
)
def test_a_sasl_user_or_password_that_no_broker_takes_is_refused(kafka: dict[str, str], problem: str) -> None:
    with pytest.raises(BadSetting) as raised:
        load(kafka=kafka)
    assert problem in str(raised.value) and "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("MLFLOW_TRACKING_TOKEN", f"{KEY}\n", "white space around"),
        ("MLFLOW_TRACKING_TOKEN", f"{KEY}é", "outside ASCII"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"api-key {KEY}", "entry 1 is no header"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"a=b,api key={KEY}", "entry 2 is no header"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"a=b,api-key={KEY}%0AHost:x", "entry 2 has a line end"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", f"api-key={KEY}é", "entry 1 has a character outside ASCII"),
    ],
)
def test_headers_that_a_library_reads_itself_are_checked_if_they_are_used(variable: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    load()
    with pytest.raises(BadSetting) as raised:
        load(registry={"tracking_uri": "http://mlflow"}, telemetry={"otlp_endpoint": "http://collector:4318"})
    assert str(raised.value).startswith(variable) and problem in str(raised.value) and "sk-" not in str(raised.value)


def test_correct_headers_of_a_collector_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={KEY}, Authorization=Basic%20abc=,")
    assert load(telemetry={"otlp_endpoint": "http://collector:4318"}).telemetry.otlp_endpoint == "http://collector:4318"


@pytest.mark.parametrize("path", [f"/data/{ODD}", "/plain/mlflow.db", "relative/ÿ%3F.db"])
def test_the_url_of_a_sqlite_file_leads_to_that_file(path: str) -> None:
    from sqlalchemy import make_url

    assert sqlite_file(sqlite_url(Path(path))) == Path(path)
    assert make_url(sqlite_url(Path(path))).database == path
    assert load(registry={"tracking_uri": sqlite_url(Path(path))}).tracking_uri == sqlite_url(Path(path))


@pytest.mark.parametrize(
    "uri", ["sqlite:///", "sqlite:///:memory:", "sqlite://file.db", "sqlite:///a?b.db", "sqlite+pysqlite:///a.db", "postgresql://db/mlflow"]
)
def test_a_registry_without_a_database_file_is_refused(uri: str) -> None:
    with pytest.raises(BadSetting, match="sqlite:///FILE"):
        load(registry={"tracking_uri": uri})


@pytest.mark.parametrize("name", [ODD, "-rf", "null", "[1]", "a\u202eb", "{x}"])
def test_a_directory_of_any_name_reaches_a_child_process_unchanged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(stack={"dir": tmp_path / name, "cache_dir": tmp_path / name}, base={"checkpoint": tmp_path / name}, ready_file=tmp_path / name)
    for variable, value in environment(settings).items():
        monkeypatch.setenv(variable, value)
    assert load() == settings


def test_a_directory_that_is_not_utf8_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_STACK__DIR", os.fsdecode(b"/tmp/\xff"))
    with pytest.raises(BadSetting, match=r"stack\.dir") as raised:
        load()
    assert str(raised.value).encode()


def _load_from_variable(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> object:
    for needed, text in NEEDED.get(key, {}).items() if value else ():
        monkeypatch.setenv(variable_of(needed), text)
    monkeypatch.setenv(variable_of(key), value)
    return _value(load(), key)


def _value(settings: object, key: str) -> object:
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings
