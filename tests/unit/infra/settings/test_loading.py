from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.errors import BadSetting
from infra.process.environment import environment
from infra.settings import Settings, load


def test_the_later_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "retouch.toml"
    file.write_text('tenant = "file"\n[base]\nurl = "http://file/v1"\nmodel = "file"\n[kafka]\npartitions = 9\n')
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://usual/v1")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "usual:9092")
    monkeypatch.setenv("RETOUCH_KAFKA__BOOTSTRAP_SERVERS", "ours:9092")
    settings = load(tenant="argument")
    assert settings.tenant == "argument"
    assert settings.kafka.bootstrap_servers == "ours:9092"
    assert settings.base.url == "http://usual/v1"
    assert (settings.base.model, settings.kafka.partitions) == ("file", 9)
    assert settings.base.attempts == 6


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("RETOUCH_KAFKA__PARTITIONS", "0", ["kafka.partitions='0'", "greater than 0"]),
        ("RETOUCH_KAFKA__PARTITONS", "4", ["kafka.partitons: ", "not permitted"]),
        ("RETOUCH_KAKFA__PARTITIONS", "4", ["RETOUCH_KAKFA__PARTITIONS", "no such setting"]),
        ("RETOUCH_BASE__TIMEOUT_S", "nan", ["base.timeout_s"]),
        ("RETOUCH_TENANT", "a/b", ["tenant='a/b'", "without '/'"]),
        ("RETOUCH_REFLECTION__K", "9", ["reflection.k=9", "retrieval.k_max=6"]),
        ("RETOUCH_STRATEGIES__PAG_K", "9", ["strategies.pag_k=9", "retrieval.k_max=6"]),
        ("RETOUCH_RETRIEVAL__BY_STRATEGY", '{"hydra": "bm26"}', ["retrieval.by_strategy.hydra='bm26'", "'bm25'"]),
        ("RETOUCH_TEACHER__KIND", "llm", ["teacher", "needs url"]),
        ("RETOUCH_REFLECTION__ENGINE", "magic", ["reflection.engine='magic'", "'vllm'"]),
        ("RETOUCH_KAFKA", "foo", ['"kafka"', "JSON object", "RETOUCH_KAFKA__PARTITIONS"]),
        ("RETOUCH_KAFKA__SESSION_TIMEOUT_MS", "999", ["kafka.session_timeout_ms='999'", "1000"]),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost", ["kafka.bootstrap_servers='localhost'", "host:port"]),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:", ["kafka.bootstrap_servers='a:1,b:'", "host:port"]),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:70000", ["kafka.bootstrap_servers='a:1,b:70000'", "host:port"]),
        ("RETOUCH_TRAINER__SFT__K", "7", ["trainer.sft.k=7", "retrieval.k_max=6"]),
        ("RETOUCH_TRAINER__SFT__K_MAX", "7", ["trainer.sft.k_max=7", "retrieval.k_max=6"]),
        ("RETOUCH_TRAINER__RL__K_MAX", "7", ["trainer.rl.k_max=7", "retrieval.k_max=6"]),
        ("RETOUCH_TRAINER__SFT__MAX_STEPS", "-1", ["trainer.sft.max_steps='-1'", "greater than or equal to 0"]),
        ("RETOUCH_TRAINER__HOLDOUT_SHARE", "0", ["trainer.holdout_share='0'", "no user would judge"]),
        ("RETOUCH_TRAINER__HOLDOUT_SHARE", "1", ["trainer.holdout_share='1'", "no user would train"]),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "localhost:4318",
            ["telemetry.otlp_endpoint='localhost:4318' (OTEL_EXPORTER_OTLP_ENDPOINT): ", "http://localhost:4318"],
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@host:4318", ["telemetry.otlp_endpoint='http://host:4318'", "OTEL_EXPORTER_OTLP_HEADERS"]),
        ("RETOUCH_TELEMETRY__EVERY_S", "0", ["telemetry.every_s='0'", "greater than 0"]),
        ("RETOUCH_PROMOTION__OPERATOR_TOKEN", "short", ["promotion", "at least 16 printable characters of ASCII"]),
        ("RETOUCH_PROMOTION__OPERATOR_TOKEN", "x" * 15 + "\n", ["promotion.operator_token: ", "at least 16"]),
        ("RETOUCH_TRAINER__SEED", "-1", ["trainer.seed='-1'", "greater than or equal to 0"]),
        ("RETOUCH_BASE__TIMEOUT_S", "inf", ["base.timeout_s='inf'", "finite number"]),
        ("RETOUCH_BASE__TIMEOUT_S", "1e300", ["base.timeout_s='1e300'", "less than or equal to"]),
        ("RETOUCH_KAFKA__SESSION_TIMEOUT_MS", "9999999999", ["kafka.session_timeout_ms='9999999999'", "less than or equal to"]),
        ("RETOUCH_KAFKA__REPLICATION_FACTOR", "40000", ["kafka.replication_factor='40000'", "32767"]),
        ("RETOUCH_KAFKA__SSL_CAFILE", "/nowhere/ca.pem", ["kafka.ssl_cafile='/nowhere/ca.pem'", "no such file"]),
        ("RETOUCH_KAFKA__INSTANCE", "two\nlines", ["kafka.instance='two\\nlines'", "one line"]),
        ("RETOUCH_INDEX__COLLECTION", "a/b", ["index.collection='a/b'", "must not hold /"]),
        ("RETOUCH_INDEX__COLLECTION", "team-profiles", ["index.collection='team-profiles'", "must not end in -profiles", "choose another name"]),
        ("RETOUCH_REGISTRY__MODEL_NAME", "it's", ['registry.model_name="it\'s"', "must not hold '"]),
        ("RETOUCH_PROMOTION__TRIGGER_PHRASES", '["Buy", " "]', ["promotion.trigger_phrases.1=' '", "pattern"]),
        ("RETOUCH_STACK__DIR", "/dev/null", ["stack.dir='/dev/null'", "no directory"]),
        ("RETOUCH_STACK__DIR", "/dev/null/state", ["stack.dir='/dev/null/state'", "/dev/null is no directory"]),
        ("RETOUCH_STACK__CACHE_DIR", "a\nb", ["stack.cache_dir=", "control character"]),
        ("RETOUCH_STACK__HOST", "127.0.0.1:9092", ["stack.host='127.0.0.1:9092'", "write 127.0.0.1"]),
        ("RETOUCH_STACK__HOST", "http://localhost", ["stack.host='http://localhost'", "without scheme"]),
        ("RETOUCH_STACK__HOST", "::1", ["stack.host='::1'", "IPv4"]),
        ("RETOUCH_PROMOTION__HOST", "[::1]", ["promotion.host='[::1]'", "brackets"]),
        ("RETOUCH_BASE__PARAMETERS", '{"top_p"', ["base.parameters: ", "line 1, column 9", 'write one such as {"temperature": null']),
        ("RETOUCH_BASE__PARAMETERS", '{"top_p": NaN}', ["base.parameters: ", "NaN"]),
        ("RETOUCH_BASE__PARAMETERS", '{"top_p": 1e999}', ["base.parameters: ", "JSON cannot hold"]),
        pytest.param("RETOUCH_BASE__PARAMETERS", '{"top_p": ' + "9" * 5000 + "}", ["base.parameters: ", "thousands of digits"], id="5,000 digits"),
        ("RETOUCH_BASE__PARAMETERS", "[1]", ["base.parameters: is no JSON object"]),
        ("RETOUCH_BASE__PARAMETERS", '{"model": "x"}', ["base.parameters", "must not hold 'model'"]),
        ("RETOUCH_TEACHER__PARAMETERS", '{"stream": true}', ["teacher.parameters", "must not hold 'stream'"]),
        ("RETOUCH_CONFIG", "/nowhere/retouch.toml", ["RETOUCH_CONFIG=/nowhere/retouch.toml", "no such file"]),
    ],
)
def test_a_bad_setting_is_one_line_with_key_value_and_what_would_be_right(variable: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSetting) as raised:
        load()
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("content", "words"), [(b"[kafka\npartitions = 4\n", "not TOML"), (b"tenant = '\xff'", "not TOML")])
def test_a_file_that_is_not_toml_is_an_error_of_one_line_with_its_path(content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "retouch.toml"
    file.write_bytes(content)
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    with pytest.raises(BadSetting) as raised:
        load()
    assert str(raised.value).startswith(f"RETOUCH_CONFIG={file}: {words}") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('[domains.tone]\nk = "2"\n', "domains.tone.k='2': must be a whole number such as 2, without quotes"),
        ("[domains.tone]\nk = true\n", "domains.tone.k=True: must be a whole number"),
        ("[domains.tone]\nmax_new_tokens = 2.0\n", "domains.tone.max_new_tokens=2.0: must be a whole number"),
        ('[domains.tone]\nordered = "yes"\n', "domains.tone.ordered='yes': must be true or false, without quotes"),
        ('[kafka]\npartitions = "9"\n', "kafka.partitions='9': must be a whole number"),
        ("[kafka]\npartitions = true\n", "kafka.partitions=True: must be a whole number"),
        ('[trainer.rl]\ntop_p = "0.9"\n', "trainer.rl.top_p='0.9': must be a number such as 0.5, without quotes"),
        ("[strategies.weights]\nrpo = true\n", "strategies.weights.rpo=True: must be a number"),
        ('[hydra]\ntrain = "true"\n', "hydra.train='true': must be true or false"),
        (
            '[index]\nshards = "2"\nurl = "http://q:1"\n[base]\nattempts = "3"\n',
            "index.shards='2': must be a whole number such as 2, without quotes and decimal",
        ),
    ],
)
def test_a_number_in_quotes_and_a_truth_value_for_a_number_are_refused_in_toml(
    content: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "retouch.toml"
    file.write_text(content)
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    with pytest.raises(BadSetting) as raised:
        load()
    assert str(raised.value).startswith(text), raised.value
    assert "base.attempts='3': must be" in str(raised.value) or "attempts" not in content


def test_every_kind_of_value_is_accepted_in_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "retouch.toml"
    lists = 'targets = ["q_proj"]\nrank = 4\nalpha = 8\n[promotion]\ntrigger_phrases = ["Buy"]\n[workers]\norder = "key"\n'
    file.write_text(
        f'[stack]\ndir = "{tmp_path}"\nstop_timeout_s = 5\n[strategies]\nweights = {{rpo = 1, rag = 0.5}}\n[trainer.lora]\n{lists}[base]\nmodel = ""\n'
    )
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    settings = load()
    assert (settings.trainer.lora.alpha, settings.stack.stop_timeout_s, settings.workers.order) == (8.0, 5.0, "key")
    monkeypatch.setenv("RETOUCH_KAFKA__PARTITIONS", "9")
    assert load().kafka.partitions == 9


def test_an_unreadable_file_is_an_error_of_one_line_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CONFIG", "/proc/self/mem")  # a file whose first bytes even root cannot read
    with pytest.raises(BadSetting, match="RETOUCH_CONFIG=/proc/self/mem: cannot be read: "):
        load()


def test_several_brokers_of_every_kind_are_accepted() -> None:
    servers = " kafka-1.example.org:9092, 10.0.0.1:9093,[::1]:9094\n"
    assert load(kafka={"bootstrap_servers": servers}).kafka.bootstrap_servers == "kafka-1.example.org:9092,10.0.0.1:9093,[::1]:9094"


def test_an_error_does_not_repeat_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_KAFKA__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("RETOUCH_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(BadSetting) as raised:
        load()
    assert "sasl_mechanism" in str(raised.value) and "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RETOUCH_KAFKA__SASL_PASSWD", "hunter2"),
        ("RETOUCH_KAFKA", '"sasl_password=hunter2"'),
        ("RETOUCH_KAFKA", "sasl_password=hunter2"),
        ("RETOUCH_TRAINER__SFT", "hunter2"),
        ("KAFKA_BOOTSTRAP_SERVERS", "ada:hunter2@broker:9092"),
    ],
)
def test_a_possible_secret_in_the_wrong_place_is_not_repeated(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSetting) as raised:
        load()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("section", "field", "value", "instead"),
    [
        ("registry", "tracking_uri", "https://ada:hunter2@mlflow:5000", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("registry", "tracking_uri", "postgresql://ada:hunter2@db/mlflow", "MLFLOW_TRACKING_USERNAME"),
        ("registry", "tracking_uri", "postgresql://db/hunter2@mlflow", "http(s)://HOST of an MLflow server, or sqlite:///FILE"),
        ("base", "url", "http://ada:hunter2@b/v1", "base.api_key"),
        ("teacher", "url", "http://hunter2@t/v1", "teacher.api_key"),
    ],
)
def test_a_url_with_a_user_is_refused_and_not_repeated(section: str, field: str, value: str, instead: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(instead)) as raised:
        load(**{section: {field: value}})
    assert f"{section}.{field}" in str(raised.value) and "hunter2" not in str(raised.value)


def test_the_error_for_a_missing_broker_names_retouch_up() -> None:
    with pytest.raises(BadSetting, match="retouch up"):
        Settings().bootstrap_servers()


@pytest.mark.parametrize("value", ["hunter2", '{"user": "hunter2"', '{"user": hunter2}', '["hunter2"]', '"hunter2"', '{"stream": "hunter2"}'])
def test_an_error_of_parameters_does_not_repeat_them(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_TEACHER__PARAMETERS", value)
    with pytest.raises(BadSetting, match=r"^teacher\.parameters: ") as raised:
        load()
    assert "hunter2" not in str(raised.value)


def test_parameters_of_a_request_are_a_json_object_in_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "retouch.toml"
    file.write_text("[base]\nparameters = '{\"temperature\": null}'\n[teacher]\nkind = 'llm'\nurl = 'http://t/v1'\n[teacher.parameters]\ntop_p = 0.5\n")
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    settings = load()
    assert (settings.base.parameters, settings.teacher.parameters) == ({"temperature": None}, {"top_p": 0.5})
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RETOUCH_CONFIG")
    assert load() == settings
    monkeypatch.setenv("RETOUCH_BASE__PARAMETERS", '{"a": {"b": [1]}}')
    assert load().base.parameters == {"a": {"b": [1]}}


def test_hydra_demonstrates_no_more_than_it_retrieves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_HYDRA__RETRIEVED", "3")
    with pytest.raises(BadSetting, match="hydra: demonstrations=4 must not exceed retrieved=3"):
        load()
