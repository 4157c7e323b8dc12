"""The cluster's users: their passwords, and files with which clients connect as them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from infra.errors import BadSetting, CannotContinue
from infra.local.kafka_node import write_properties
from lab.cluster.layout import NODES, ClusterLayout, node_name
from lab.cluster.properties import ADMIN

REPLICATION_FACTOR = 3
PASSWORD_BYTES = 24
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_names(names: Iterable[str]) -> None:
    """Raises BadSetting for a name that is no file name, or belongs to the cluster itself."""
    taken = {ADMIN, *map(node_name, NODES)}
    for name in names:
        if not _NAME.fullmatch(name):
            raise BadSetting(f"--user {name}: use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
        if name in taken:
            raise BadSetting(f"--user {name}: the cluster has this user itself; choose another name")


def passwords(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """A password for each user: the one in its file NAME.password, or a new one, which is written there. Only this user may read the files."""
    return {name: _password(directory / f"{name}.password") for name in names}


def kafka_settings(layout: ClusterLayout, ca: Path, user: str, password: str) -> dict[str, Any]:
    """The settings of the section `kafka` for a client that connects as this user."""
    settings: dict[str, Any] = {"bootstrap_servers": layout.bootstrap_servers, "security_protocol": layout.security.protocol}
    if layout.security.scram:
        settings |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": user, "sasl_password": password}
    if layout.security.tls:
        settings["ssl_cafile"] = str(ca)
    return settings | {"replication_factor": REPLICATION_FACTOR}


def java_settings(layout: ClusterLayout, ca: Path, user: str, password: str) -> dict[str, str]:
    """The same for Kafka's own tools, as the file of their `--command-config`."""
    settings = {"bootstrap.servers": layout.bootstrap_servers, "security.protocol": layout.security.protocol}
    if layout.security.scram:
        login = f'org.apache.kafka.common.security.scram.ScramLoginModule required username="{user}" password="{password}";'
        settings |= {"sasl.mechanism": "SCRAM-SHA-512", "sasl.jaas.config": login}
    if layout.security.tls:
        settings |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(ca)}
    return settings


def write_files(directory: Path, layout: ClusterLayout, ca: Path, passwords: Mapping[str, str]) -> list[Path]:
    """NAME.toml, which `RETOUCH_CONFIG` names, and NAME.properties for each user. Returns the former. Raises CannotContinue if they cannot be written."""
    written = []
    try:
        for user, password in passwords.items():
            written.append(directory / f"{user}.toml")
            _write_private(written[-1], _toml(user, kafka_settings(layout, ca, user, password)))
            write_properties(directory / f"{user}.properties", java_settings(layout, ca, user, password))
    except OSError as error:
        raise CannotContinue(f"cannot write the users' files to {directory}: {error.strerror or error}; choose another --out") from error
    return written


def _toml(user: str, kafka: Mapping[str, Any]) -> str:
    """Strings of TOML and of JSON have the same escapes."""
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in kafka.items()]
    return "\n".join((f"# Connects as {user} to the cluster of `retouch lab cluster`, which writes this file at each start.", "[kafka]", *lines, ""))


def _password(path: Path) -> str:
    try:
        if path.exists():
            return path.read_text(encoding="utf-8").strip()
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        _write_private(path, password + "\n")
    except OSError as error:
        raise CannotContinue(f"cannot use {path}: {error.strerror or error}; choose another --out") from error
    return password


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
