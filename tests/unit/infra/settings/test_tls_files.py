from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BadSetting
from infra.settings import load
from lab.cluster.certificates import Authority

PASSWORD = "hunter2"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


def refusal(**kafka: object) -> str:
    with pytest.raises(BadSetting) as raised:
        load(kafka={"security_protocol": "SSL", **kafka})
    assert PASSWORD not in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_certificate_with_its_key_and_the_keys_password_is_accepted(authority: Authority, password: str | None) -> None:
    certfile, keyfile = authority.sign("client", password)
    kafka = {"security_protocol": "SSL", "ssl_cafile": authority.cafile, "ssl_certfile": certfile, "ssl_keyfile": keyfile, "ssl_key_password": password}
    assert load(kafka=kafka).kafka.ssl_keyfile == keyfile


def test_one_file_may_hold_certificate_and_key(authority: Authority) -> None:
    certfile, keyfile = authority.sign("client")
    certfile.write_bytes(certfile.read_bytes() + keyfile.read_bytes())
    assert load(kafka={"security_protocol": "SSL", "ssl_certfile": certfile}).kafka.ssl_keyfile is None


@pytest.mark.parametrize("field", ["ssl_cafile", "ssl_certfile", "ssl_keyfile"])
def test_a_missing_wrong_or_unreadable_file_is_refused_by_its_name(field: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("-----BEGIN NOTHING-----")
    assert f"kafka.{field}='/nowhere/x.pem': there is no such file" in refusal(**{field: "/nowhere/x.pem"})
    assert f"kafka.{field}='{wrong}': holds no " in refusal(**{field: str(wrong)})
    assert f"kafka.{field}='/proc/self/mem': cannot be read" in refusal(**{field: "/proc/self/mem"})  # not even root can


def test_the_key_of_another_certificate_is_refused(authority: Authority) -> None:
    certfile, _ = authority.sign("client")
    _, other = authority.sign("other")
    assert f"ssl_keyfile={other} is not the key of the certificate in ssl_certfile={certfile}" in refusal(ssl_certfile=certfile, ssl_keyfile=other)


def test_a_wrong_or_missing_key_password_is_refused(authority: Authority) -> None:
    certfile, keyfile = authority.sign("client", "right")
    files = {"ssl_certfile": certfile, "ssl_keyfile": keyfile}
    assert f"ssl_key_password does not decrypt ssl_keyfile={keyfile}" in refusal(**files, ssl_key_password=PASSWORD)
    assert "ssl_key_password is too long" in refusal(**files, ssl_key_password=PASSWORD * 500)
    assert f"ssl_keyfile={keyfile} is encrypted: set ssl_key_password" in refusal(**files)


def test_a_damaged_key_is_refused(authority: Authority) -> None:
    certfile, keyfile = authority.sign("client")
    keyfile.write_text(keyfile.read_text().replace("\nM", "\nA"))
    assert f"ssl_keyfile={keyfile} holds a private key that cannot be read" in refusal(ssl_certfile=certfile, ssl_keyfile=keyfile)


def test_a_certificate_without_a_key_or_without_tls_is_refused(authority: Authority) -> None:
    certfile, keyfile = authority.sign("client")
    assert "holds no private key: set ssl_keyfile" in refusal(ssl_certfile=certfile)
    assert "need ssl_certfile" in refusal(ssl_keyfile=keyfile)
    assert "ssl_certfile needs security_protocol=SSL or SASL_SSL, not PLAINTEXT" in refusal(
        ssl_certfile=certfile, ssl_keyfile=keyfile, security_protocol="PLAINTEXT"
    )
