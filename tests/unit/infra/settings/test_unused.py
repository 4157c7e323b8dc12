"""A setting that has no effect unless another one is set, and numbers without a sane limit: both are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from pydantic import SecretStr

from infra.errors import BadSetting
from infra.process.environment import environment
from infra.settings import Settings, load
from infra.settings.section import MAX_INT
from infra.settings.sources import sources
from infra.settings.stream import IndexSettings

SERVER: dict[str, Any] = {"url": "http://127.0.0.1:1"}
KEY = "sk-hunter2-hunter2"
OF_SERVER: tuple[dict[str, Any], ...] = (
    *({"api_key": KEY}, {"collection": "other"}, {"grpc_port": 6334}, {"timeout_s": 3.0}, {"retries": 2}, {"shards": 2}, {"replication_factor": 2}),
    *({"write_consistency_factor": 2}, {"vectors_on_disk": True}, {"payload_on_disk": False}, {"quantization": "none"}),
)
OF_ENDPOINT: tuple[dict[str, Any], ...] = ({"api_key": KEY}, {"parameters": {"user": "u"}}, {"timeout_s": 3.0}, {"concurrency": 2})
OF_TEACHER: tuple[dict[str, Any], ...] = (SERVER, {"api_key": KEY}, {"model": "m"}, {"parameters": {"user": "u"}}, {"timeout_s": 3.0})
OF_WRITER: tuple[dict[str, Any], ...] = (
    *(SERVER, {"model": "m"}, {"parameters": {}}, {"timeout_s": 3.0}),
    *({"summary_tokens": 9}, {"features_tokens": 9}, {"reasoning_tokens": 9}),
)
#: By section: what is set, and what gives it an effect. The remedy is in the error.
NEEDS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    *(("index", given, SERVER, "index.url") for given in OF_SERVER),
    *(("embedder", given, SERVER, "embedder.url") for given in OF_ENDPOINT),
    *(("teacher", given, {"kind": "llm"} | SERVER, "teacher.kind=llm") for given in OF_TEACHER),
    *(("profiles", given, {"kind": "llm"}, "profiles.kind=llm") for given in OF_WRITER),
    ("profiles", {"kind": "llm", "api_key": KEY}, SERVER, "profiles.url"),
    ("sources", {"registry_username": "ann"}, {"registry_url": SERVER["url"]}, "sources.registry_url"),
    ("sources", {"registry_timeout_s": 3.0}, {"registry_url": SERVER["url"]}, "sources.registry_url"),
    *(("telemetry", {name: 3.0}, {"otlp_endpoint": SERVER["url"]}, "telemetry.otlp_endpoint") for name in ("every_s", "timeout_s", "end_within_s")),
    ("telemetry", {"http_host": "0.0.0.0"}, {"http_port": 0}, "telemetry.http_port"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "given", "needed", "key"), NEEDS)
def test_a_setting_without_effect_is_refused_with_the_one_it_needs(section: str, given: dict[str, Any], needed: dict[str, Any], key: str) -> None:
    name = [name for name in given if name not in ("url", "kind")] or ["url"]
    with pytest.raises(BadSetting) as raised:
        load(**{section: given})
    text = str(raised.value)
    assert text.startswith(f"{section}: {name[0]}: used only with {key}") and "set " in text and "or leave it out" in text, text
    assert "hunter2" not in text and "\n" not in text
    load(**{section: given | needed})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"index": {"shards": 2, "grpc_port": 6334}}, "index: grpc_port, shards: used only with index.url, the address of a Qdrant server, which is not set: "),
        ({"embedder": SERVER | {"threads": 2}}, "embedder: threads: used only without embedder.url, whose server decides: unset embedder.url, or leave it out"),
        ({"embedder": SERVER | {"dtype": "auto", "processes": 1}}, "embedder: dtype, processes: used only without embedder.url"),
        ({"embedder": SERVER | {"pooling": "cls"}}, "embedder: pooling: used only without embedder.url"),
        ({"profiles": {"kind": "llm", "max_features": 2, "languages": ["de"]}}, "profiles: max_features, languages: used only with profiles.kind=template"),
        ({"trainer": {"lora": {"alpha": 16, "dropout": 0.1}}}, "trainer.lora: alpha, dropout: used only with trainer.lora.rank, which is 0"),
        ({"trainer": {"rl": {"vllm_memory_share": 0.5}}}, "trainer.rl: vllm_memory_share: used only with trainer.rl.rollouts=vllm_colocate"),
    ],
)  # fmt: skip
def test_the_error_names_all_of_them_and_both_ways_out(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadSetting) as raised:
        load(**given)
    assert str(raised.value).startswith(text), raised.value


def test_a_key_that_the_shell_has_for_other_tools_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    assert load().index == IndexSettings()
    assert {setting.key: setting.source for setting in sources(load())}["index.api_key"] == "default"
    with pytest.raises(BadSetting, match=r"^index: api_key, shards: used only with index\.url"):
        load(index={"api_key": KEY, "shards": 2})
    file = tmp_path / "retouch.toml"
    file.write_text('[index]\nurl = "http://127.0.0.1:1"\n')
    for source, value in (("RETOUCH_CONFIG", str(file)), ("QDRANT_URL", SERVER["url"]), ("RETOUCH_INDEX__URL", SERVER["url"])):
        with monkeypatch.context() as shell:
            shell.setenv(source, value)
            assert load().index.api_key == SecretStr(KEY), source
    assert load(index=SERVER).index.api_key == SecretStr(KEY)


def test_a_default_that_is_written_out_is_accepted() -> None:
    written = {"timeout_s": 10.0, "quantization": "int8", "retries": 0}
    assert load(index=written, embedder={"processes": 0, "concurrency": 4}, teacher={"timeout_s": 60.0}).index == Settings().index


def test_a_certificate_authority_needs_a_connection_with_tls() -> None:
    with pytest.raises(BadSetting, match=r"ssl_cafile: used only with kafka\.security_protocol=SSL or SASL_SSL, which is PLAINTEXT: set that"):
        load(kafka={"ssl_cafile": certifi.where()})
    load(kafka={"ssl_cafile": certifi.where(), "security_protocol": "SSL"})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("embedder", "processes", 2_000),
        ("embedder", "concurrency", 20_000),
        ("embedder", "threads", 2_000),
        ("embedder", "batch_size", 1_000_000),
        ("base", "concurrency", 20_000),
        ("base", "attempts", 100_000),
        ("reflection", "concurrency", 20_000),
        ("reflection", "max_model_len", 100_000_000),
        ("teacher", "concurrency", 20_000),
        ("profiles", "concurrency", 20_000),
        ("profiles", "factor_users", 100_000_000),
        ("kafka", "partitions", 1_000_000),
        ("workers", "remember", 100_000_000),
        ("quality", "waiting", 1_000_000_000),
        ("trainer", "generate_rows", 1_000_000),
    ],
)
def test_a_number_that_costs_memory_or_threads_has_a_limit(section: str, name: str, value: int) -> None:
    with pytest.raises(BadSetting, match=rf"{section}\.{name}={value}: .*less than or equal to"):
        load(**{section: {name: value}})


def test_every_whole_number_has_a_limit() -> None:
    unbounded = [key for key, schema in integers(Settings.model_json_schema()) if "maximum" not in schema and "exclusiveMaximum" not in schema]
    assert not unbounded
    assert all(schema.get("maximum", 0) <= MAX_INT for _, schema in integers(Settings.model_json_schema()))


def integers(schema: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        for item in schema:
            yield from integers(item, key)
    elif isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield key, schema
        for name, inner in schema.items():
            yield from integers(inner, f"{key}.{name}")


def test_the_settings_of_a_child_process_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor passes settings as variables, and may have taken the health server away."""
    settings = load(telemetry={"http_port": 0, "http_host": "0.0.0.0"}, index=SERVER | {"shards": 2})
    for name, value in environment(settings.changed(telemetry={"http_port": None, "http_host": "127.0.0.1"})).items():
        monkeypatch.setenv(name, value)
    assert load().index == settings.index
