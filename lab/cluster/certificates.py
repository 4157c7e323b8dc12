"""A certificate authority and what it signs, as PEM files: for TLS of the lab's cluster, and of tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Certificates are valid for this many days.
VALID_DAYS = 30

_DAY = datetime.timedelta(days=1)


class Authority:
    """Writes `ca.pem` into `directory`, and the certificates that it signs for localhost."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cafile = directory / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        unsigned = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = unsigned.sign(self._key, hashes.SHA256())
        self.cafile.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, password: str | None = None) -> tuple[Path, Path]:
        """The files of a new certificate for localhost and of its key, which is encrypted if there is a password."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = _builder(_named(name), self._name, key).add_extension(hosts, critical=False).sign(self._key, hashes.SHA256())
        certfile, keyfile = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encryption = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        keyfile.touch(mode=0o600)
        keyfile.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        return certfile, keyfile


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - _DAY).not_valid_after(now + VALID_DAYS * _DAY)
