"""Users of a cluster: names, passwords, and the files with which they connect."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from infra.errors import BadSetting
from infra.settings import load
from lab.cluster.certificates import Authority
from lab.cluster.layout import Security, new_layout
from lab.cluster.users import check_names, kafka_settings, passwords, write_files


@pytest.mark.parametrize("name", ["", "a/b", "-x", "a b", "a=b", "é", "x" * 65, "admin", "broker-1"])
def test_a_name_that_cannot_be_a_user_is_refused(name: str) -> None:
    with pytest.raises(BadSetting, match=f"--user {name}"):
        check_names([name])


def test_a_user_keeps_the_password(tmp_path: Path) -> None:
    first = passwords(tmp_path, ["ada", "bob"])
    assert passwords(tmp_path, ["ada", "bob", "cy"]) | first == passwords(tmp_path, ["ada", "bob", "cy"])
    assert len(set(first.values())) == 2 and min(map(len, first.values())) >= 32


def test_only_this_user_can_read_files_with_a_password(tmp_path: Path) -> None:
    write_files(tmp_path, new_layout("127.0.0.1", Security()), tmp_path / "ca.pem", passwords(tmp_path, ["ada"]))
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "ada.password": 0o600,
        "ada.toml": 0o600,
        "ada.properties": 0o600,
    }


@pytest.mark.parametrize("security", [Security(), Security(tls=False), Security(scram=False, acls=False), Security(tls=False, scram=False, acls=False)])
def test_the_settings_file_connects_as_the_user(security: Security, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca, layout = Authority(tmp_path / 'p"k=i').cafile, new_layout("127.0.0.1", security)
    secrets = passwords(tmp_path, ["ada"])
    (file,) = write_files(tmp_path, layout, ca, secrets)
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    kafka = load().kafka
    assert (kafka.bootstrap_servers, kafka.security_protocol, kafka.replication_factor) == (layout.bootstrap_servers, security.protocol, 3)
    assert kafka.sasl_username == ("ada" if security.scram else None)
    assert kafka.ssl_cafile == (ca if security.tls else None)
    assert kafka == type(kafka)(**kafka_settings(layout, ca, "ada", secrets["ada"]))
