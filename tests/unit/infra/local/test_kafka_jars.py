"""Only jars with the listed digests are used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.local import kafka_jars
from infra.process.file_lock import locked

REFUSED = "http://127.0.0.1:9"  # the discard port: nothing answers


def test_the_list_names_the_broker_and_a_log_binding() -> None:
    names = kafka_jars.checksums()
    assert len(names) == 46 and all(len(digest) == 64 for digest in names.values())
    assert {f"kafka_2.13-{kafka_jars.VERSION}.jar", "slf4j-simple-1.7.36.jar"} <= names.keys()


def test_a_changed_jar_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "kafka" / kafka_jars.VERSION
    target.mkdir(parents=True)
    for name in kafka_jars.checksums():
        (target / name).write_bytes(b"not what was listed")
    with pytest.raises(CannotContinue, match=r"\.jar has sha256 .*, expected .*: remove"):
        kafka_jars.ensure_jars(tmp_path)


def test_the_wait_for_a_fetch_by_another_process_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_jars, "LOCK_TIMEOUT_S", 0.05)
    (tmp_path / "kafka").mkdir()
    with locked(tmp_path / "kafka" / "lock", timeout_s=1), pytest.raises(CannotContinue, match=r"Kafka's jars: another process has held .*/kafka/lock"):
        kafka_jars.ensure_jars(tmp_path)


def test_an_additional_jar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.jar").touch()
    with pytest.raises(CannotContinue, match=r"does not hold the jars"):
        kafka_jars.verify(tmp_path)


def test_without_network_and_jars_the_error_names_the_network(tmp_path: Path) -> None:
    """In a separate process, because jgo's clients read proxies from the environment once."""
    code = "import infra.local.kafka_jars as jars, sys; jars.ATTEMPTS = 1; jars.ensure_jars(__import__('pathlib').Path(sys.argv[1]))"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), REFUSED) | {"NO_PROXY": "", "no_proxy": ""}
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | proxies, capture_output=True, text=True, check=False)
    assert "cannot fetch Kafka's jars (ProxyError): the first start needs the network" in result.stderr
    assert [path.name for path in (tmp_path / "kafka").iterdir()] == ["lock"]


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs a directory that even root cannot write")
def test_a_directory_that_cannot_be_written_is_named() -> None:
    with pytest.raises(CannotContinue, match=r"cannot write Kafka's jars to /proc/cache/kafka"):
        kafka_jars.ensure_jars(Path("/proc/cache"))
