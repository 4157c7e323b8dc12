"""What the worker refuses before it connects, and the names of its members."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BadSetting
from infra.settings import Settings, load
from workers.sources.decoding import Decoder
from workers.sources.service import check_registry, load_mappings, workers

SOURCE = """
[[sources]]
topic = "{topic}"
format = "{format}"
message = "interaction"
fields = {{ user = "value.u", content = "value.c", response = "value.r", occurred_at = "value.t" }}
constants = {{ tenant = "t", domain = "d" }}
"""


def settings(folder: Path, *sources: str, registry: dict[str, str] | None = None, kafka: dict[str, str] | None = None) -> Settings:
    file = folder / "sources.toml"
    file.write_text("".join(sources))
    return load(sources={"file": file, **(registry or {})}, kafka=kafka or {})


def test_without_a_file_it_does_not_start() -> None:
    with pytest.raises(BadSetting, match=r"sources\.file is not set: name the TOML file of the sources in RETOUCH_SOURCES__FILE"):
        load_mappings(load())


def test_avro_without_a_registry_is_refused(tmp_path: Path) -> None:
    given = settings(tmp_path, SOURCE.format(topic="a", format="json"), SOURCE.format(topic="b", format="avro"))
    with pytest.raises(BadSetting, match=r"sources\.registry_url is not set, and source b reads avro"):
        check_registry(given, load_mappings(given))


def test_a_user_of_the_registry_without_a_password_is_refused(tmp_path: Path) -> None:
    given = settings(tmp_path, SOURCE.format(topic="a", format="json"), registry={"registry_url": "http://a:8081", "registry_username": "ann"})
    with pytest.raises(BadSetting, match=r"sources\.registry_password is not set"):
        check_registry(given, load_mappings(given))


def test_each_topic_has_a_member_with_a_name_of_its_own(tmp_path: Path) -> None:
    topics = ("a", "b" * 60 + "1", "b" * 60 + "2")
    given = settings(tmp_path, *(SOURCE.format(topic=topic, format="json") for topic in topics), kafka={"instance": "pod-0"})
    names = [worker._settings.kafka.instance or "" for worker in workers(given, load_mappings(given), Decoder())]
    assert names[0] == "pod-0-a"
    assert len(set(names)) == 3 and max(map(len, names)) == len("pod-0-") + 40


def test_a_name_that_kafka_does_not_take_is_refused(tmp_path: Path) -> None:
    given = settings(tmp_path, SOURCE.format(topic="a" * 40, format="json"), kafka={"instance": "p" * 50, "group_prefix": "g" * 170})
    with pytest.raises(BadSetting, match=r"have \d+ characters too many"):
        workers(given, load_mappings(given), Decoder())
