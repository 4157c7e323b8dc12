"""The local broker: Apache Kafka in KRaft mode, one node, on loopback, with durable data below the state directory.

It has no security and no replication; a cluster's Kafka has both.

The broker runs in its own directory and gets only relative names: a link to the jars, its data and its properties. So the path of the state directory
may contain a comma, which separates Kafka's data directories, or a colon, which separates jars.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from infra.errors import BadSetting, CannotContinue
from infra.local.java import find_java
from infra.local.kafka_jars import ensure_jars
from infra.process.child import Child
from infra.process.ports import free_port, why_taken
from infra.settings import Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
MIN_FREE_BYTES = 256 * 1024 * 1024
#: Names in the broker's directory.
JARS, DATA, NEW_DATA, PROPERTIES, FORMAT_PROPERTIES = "jars", "data", "data.new", "server.properties", "format.properties"
#: Little memory, a short start, and warnings with a readable time.
JVM_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)

PROTOCOLS = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
#: For one node with little memory and few threads on two shared cores. Tried on 2026-11-20.
FIXED_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.segment.bytes": "1048576",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.segment.bytes": "1048576",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "metadata.log.segment.bytes": "8388608",
    "log.segment.bytes": "67108864",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.cleaner.io.buffer.size": "131072",
    "num.network.threads": "1",
    "num.io.threads": "2",
    "background.threads": "2",
    "queued.max.requests": "64",
    "group.coordinator.threads": "1",
    "share.coordinator.threads": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "200",
}


class Broker:
    """One Kafka node. Its directory keeps the ports, so a restarted broker has the same address.

    With `proxy_port` it has a second listener on `proxied_port`, which advertises `proxy_port` of the same host: a client that connects through a proxy
    on that port keeps using the proxy.
    """

    def __init__(self, settings: Settings, *, proxy_port: int = 0) -> None:
        self._settings = settings.stack
        self._proxy_port = proxy_port
        self.proxied_port = free_port(settings.stack.host) if proxy_port else 0
        self.dir = (settings.stack.dir / "kafka").resolve()
        self.child = Child("broker", [], settings.stack.dir.resolve() / "logs" / "broker.log", _utf8_environment(), directory=self.dir)
        self.port = 0
        self._properties_file = self.dir / PROPERTIES
        self._jars = Path()
        self._java: list[str] = []

    @property
    def bootstrap_servers(self) -> str:
        return f"{self._settings.host}:{self.port}"

    def prepare(self) -> None:
        """Find Java, and fetch and verify the jars, once. Raises CannotContinue. Blocks while the jars are fetched."""
        if not self._java:
            self._jars = ensure_jars(self._settings.cache_dir.resolve())
            self._java = [str(find_java().absolute()), *JVM_OPTIONS, "-cp", f"{JARS}/*"]

    def launch(self) -> None:
        """Start the process and return at once. A new data directory is formatted first, which takes about 1 s.

        Raises CannotContinue if Java, jars or disk space are missing or a port is taken, BadSetting if `stack.broker_port` is taken.
        Call it from a thread that outlives the broker (see `infra.process.parent_death`).
        """
        self.prepare()
        self._prepare_dir()
        self.child.command = [*self._java, "kafka.Kafka", PROPERTIES]
        self.child.start()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Block until the broker answers. Raises CannotContinue with the end of its log if it ends or `timeout_s` passes."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if not self.child.is_running:
                raise CannotContinue(f"the broker ended with exit code {self.child.exit_code}; end of {self.child.log}:\n{self.child.last_lines()}")
            if time.monotonic() > deadline:
                raise CannotContinue(f"the broker did not answer within {timeout_s:.0f} s; end of {self.child.log}:\n{self.child.last_lines()}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether the broker answers a client. Blocks for at most a few seconds."""
        if not _accepts(self._settings.host, self.port):
            return False
        from kafka import KafkaAdminClient
        from kafka.errors import RetriableError

        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers, client_id="retouch-broker-wait", bootstrap_timeout_ms=2000)
            try:
                admin.describe_cluster()
            finally:
                admin.close()
        except RetriableError:
            return False
        return True

    def start(self) -> None:
        """Launch the broker and wait until it answers. Kills it if it does not."""
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.child.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S. The data stays."""
        self.child.stop(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL. Acknowledged records are in the page cache, so they survive."""
        self.child.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _prepare_dir(self) -> None:
        """Write server.properties with the ports of an earlier start or free ones, and format a new data directory."""
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            _link(self.dir / JARS, self._jars)
            free = shutil.disk_usage(self.dir).free
            if free < MIN_FREE_BYTES:
                raise CannotContinue(f"{self.dir}: {free >> 20} MiB free, the broker needs {MIN_FREE_BYTES >> 20}: free some, or set stack.dir elsewhere")
            self.port, controller = _ports(self._properties_file) or (0, free_port(self._settings.host))
            self._choose_port()
            _require_free(self._settings.host, controller, f"stop that program, or remove {self.dir} to start with an empty broker on another port")
            _write(self._properties_file, self._properties(controller, DATA))
            if not (self.dir / DATA).exists():
                self._format(controller)
        except OSError as error:
            raise CannotContinue(f"cannot write the broker's data to {self.dir}: {error.strerror or error}; set stack.dir to a writable place") from error

    def _choose_port(self) -> None:
        host, configured = self._settings.host, self._settings.broker_port
        if configured and (reason := why_taken(host, configured)):
            raise BadSetting(f"stack.broker_port={configured}: port is taken on {host} ({reason}); stop that program or choose another, 0 takes a free one")
        if self.port and not configured:
            _require_free(host, self.port, "stop that program, or set stack.broker_port to another port")
        self.port = configured or self.port or free_port(host)

    def _properties(self, controller: int, data: str) -> dict[str, str]:
        host = self._settings.host
        listeners, advertised, protocols = f"PLAINTEXT://{host}:{self.port},CONTROLLER://{host}:{controller}", f"PLAINTEXT://{host}:{self.port}", PROTOCOLS
        if self._proxy_port:
            listeners += f",PROXIED://{host}:{self.proxied_port}"
            advertised += f",PROXIED://{host}:{self._proxy_port}"
            protocols += ",PROXIED:PLAINTEXT"
        return FIXED_PROPERTIES | {
            "listeners": listeners,
            "advertised.listeners": advertised,
            "listener.security.protocol.map": protocols,
            "controller.quorum.bootstrap.servers": f"{host}:{controller}",
            "log.dirs": data,
        }

    def _format(self, controller: int) -> None:
        """Format a temporary directory and rename it, so that an existing data directory is complete."""
        new, properties = self.dir / NEW_DATA, self.dir / FORMAT_PROPERTIES
        shutil.rmtree(new, ignore_errors=True)
        _write(properties, self._properties(controller, NEW_DATA))
        command = [*self._java, "kafka.tools.StorageTool", "format", "--standalone", "-t", _cluster_id(), "-c", FORMAT_PROPERTIES]
        result = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=START_TIMEOUT_S, check=False, cwd=self.dir, env=_utf8_environment()
        )
        if result.returncode:
            last = [line for line in (result.stdout + result.stderr).splitlines() if line.strip() and not line.startswith("\t")][-1:]  # no Java stack
            raise CannotContinue(f"cannot format the broker's data directory {new}: {''.join(last)}")
        new.rename(self.dir / DATA)
        properties.unlink()


def _cluster_id() -> str:
    """22 characters of URL-safe base64 without a leading dash, which Kafka's tool would read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _ports(properties: Path) -> tuple[int, int] | None:
    """The client and controller ports in the properties file, if there is one."""
    if not properties.exists():
        return None
    for line in properties.read_text().splitlines():
        if line.startswith("listeners="):
            client, controller = (int(listener.rsplit(":", 1)[1]) for listener in line.split(",")[:2])
            return client, controller
    return None


def _write(path: Path, properties: Mapping[str, str]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text("".join(f"{name}={_escaped(value)}\n" for name, value in properties.items()))
    temporary.replace(path)


def _escaped(value: str) -> str:
    """The value as `java.util.Properties` reads it. For one line that begins with no space its escapes are those of JSON."""
    return json.dumps(value)[1:-1]


def _link(link: Path, target: Path) -> None:
    """A symbolic link to `target`, instead of an earlier one."""
    new = link.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.symlink_to(target, target_is_directory=True)
    new.replace(link)


def _utf8_environment() -> dict[str, str]:
    """Java decodes its working directory by the locale; without UTF-8 it would write beside a directory whose name is not ASCII."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _require_free(host: str, port: int, remedy: str) -> None:
    if reason := why_taken(host, port):
        raise CannotContinue(f"port {port} on {host} is taken ({reason}): {remedy}")


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
