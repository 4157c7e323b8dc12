"""Checks the PEM files of a TLS client: certificate authority, certificate, private key. Each function raises ValueError with what is wrong.

By `ssl` alone, so a file that passes is one that the Kafka clients can load.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from infra.settings.texts import file

_ENCRYPTED = ("BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")


def certificates(path: Path) -> Path:
    """A PEM file with at least one certificate."""
    _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError):
        raise ValueError("holds no certificate in PEM: name a file with -----BEGIN CERTIFICATE-----") from None
    return path


def private_key(path: Path) -> Path:
    """A PEM file with a private key. Whether it can be decrypted is known only with its password: `key_problem`."""
    if "PRIVATE KEY-----" not in _read(path):
        raise ValueError("holds no private key in PEM: name a file with -----BEGIN PRIVATE KEY-----")
    return path


def key_problem(certfile: Path, keyfile: Path | None, password: str) -> str | None:
    """Why a client cannot use this key with this certificate, beginning with the setting at fault. None if it can. Never holds the password."""
    key, named = keyfile or certfile, "ssl_keyfile" if keyfile else "ssl_certfile"
    content = _read(key)
    if "PRIVATE KEY-----" not in content:
        return f"ssl_certfile={certfile} holds no private key: set ssl_keyfile"
    is_encrypted = any(mark in content for mark in _ENCRYPTED)
    if is_encrypted and not password:
        return f"{named}={key} is encrypted: set ssl_key_password"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certfile, key, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{named}={key} is not the key of the certificate in ssl_certfile={certfile}: name the two files that were made together"
        if is_encrypted:
            return f"ssl_key_password does not decrypt {named}={key}: write the password of this key"
        return f"{named}={key} holds a private key that cannot be read: write it in PEM, as PKCS#8"
    except ValueError:  # a password of more than 1,024 bytes
        return "ssl_key_password is too long: write the password of this key"
    return None


def _read(path: Path) -> str:
    try:
        return file(path).read_bytes().decode("ascii", "replace")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from None
