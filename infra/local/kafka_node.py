"""One Kafka node in KRaft mode, broker and controller in one process: its directory, its format and its Java process.

The node runs in its own directory and gets only relative names: a link to the jars, its data and its properties. So the path of the directory may contain
a comma, which separates Kafka's data directories, or a colon, which separates jars.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.errors import CannotContinue
from infra.local.java import find_java
from infra.local.kafka_jars import ensure_jars
from infra.process.child import Child
from infra.process.ports import why_taken

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
MIN_FREE_BYTES = 256 * 1024 * 1024
#: Names in the node's directory.
JARS, DATA, NEW_DATA, PROPERTIES, FORMAT_PROPERTIES = "jars", "data", "data.new", "server.properties", "format.properties"
#: A short start, and warnings with a readable time.
JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
)
#: Few threads and little memory, for nodes that share two cores with everything else. Tried on 2026-11-20.
SMALL_PROPERTIES = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.segment.bytes": "1048576",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.segment.bytes": "1048576",
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
}


class KafkaNode(ABC):
    """One node. Its directory and its data outlive the process, so it can be started again after a stop or a kill."""

    #: The setting or option that chooses the directory, for error messages.
    place = "stack.dir"
    heap_mib = 512

    def __init__(self, name: str, directory: Path, log: Path, cache_dir: Path) -> None:
        self.dir = directory
        self.child = Child(name, [], log, _utf8_environment(), directory=self.dir)
        self._cache_dir = cache_dir
        self._properties_file = self.dir / PROPERTIES
        self._jars = Path()
        self._java: list[str] = []

    @abstractmethod
    def _choose_ports(self) -> int:
        """Choose and check the ports; returns the controller's. Raises CannotContinue or BadSetting if one is taken."""

    @abstractmethod
    def _properties(self, controller: int, data: str) -> dict[str, str]:
        """The content of server.properties, with the controller's port and the name of the data directory."""

    def _format_options(self) -> Sequence[str]:
        """How the storage tool forms the controllers' quorum, and under which cluster id."""
        return ("--standalone", "-t", random_id())

    def prepare(self) -> None:
        """Find Java, and fetch and verify the jars, once. Raises CannotContinue. Blocks while the jars are fetched."""
        if not self._java:
            self._jars = ensure_jars(self._cache_dir)
            self._java = [str(find_java().absolute()), f"-Xmx{self.heap_mib}m", *JVM_OPTIONS, "-cp", f"{JARS}/*"]

    def launch(self) -> None:
        """Start the process and return at once. A new data directory is formatted first, which takes about 1 s.

        Raises CannotContinue if Java, jars or disk space are missing or a port is taken, BadSetting if a configured port is taken.
        Call it from a thread that outlives the node (see `infra.process.parent_death`).
        """
        self.prepare()
        self._prepare_dir()
        self.child.command = [*self._java, "kafka.Kafka", PROPERTIES]
        self.child.start()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S. The data stays."""
        self.child.stop(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL. Acknowledged records are in the page cache, so they survive."""
        self.child.kill()

    def _prepare_dir(self) -> None:
        """Write server.properties with the ports of an earlier start or free ones, and format a new data directory."""
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            _link(self.dir / JARS, self._jars)
            free = shutil.disk_usage(self.dir).free
            if free < MIN_FREE_BYTES:
                need = f"{free >> 20} MiB free, the broker needs {MIN_FREE_BYTES >> 20}"
                raise CannotContinue(f"{self.dir}: {need}: free some, or set {self.place} elsewhere")
            controller = self._choose_ports()
            write_properties(self._properties_file, self._properties(controller, DATA))
            if not (self.dir / DATA).exists():
                self._format(controller)
        except OSError as error:
            reason = error.strerror or error
            raise CannotContinue(f"cannot write the broker's data to {self.dir}: {reason}; set {self.place} to a writable place") from error

    def _format(self, controller: int) -> None:
        """Format a temporary directory and rename it, so that an existing data directory is complete."""
        new, properties = self.dir / NEW_DATA, self.dir / FORMAT_PROPERTIES
        shutil.rmtree(new, ignore_errors=True)
        write_properties(properties, self._properties(controller, NEW_DATA))
        command = [*self._java, "kafka.tools.StorageTool", "format", *self._format_options(), "-c", FORMAT_PROPERTIES]
        result = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=START_TIMEOUT_S, check=False, cwd=self.dir, env=_utf8_environment()
        )
        if result.returncode:
            last = [line for line in (result.stdout + result.stderr).splitlines() if line.strip() and not line.startswith("\t")][-1:]  # no Java stack
            raise CannotContinue(f"cannot format the broker's data directory {new}: {''.join(last)}")
        new.rename(self.dir / DATA)
        properties.unlink()


def random_id() -> str:
    """An id of a cluster or directory: 22 characters of URL-safe base64 without a leading dash, which Kafka's tool would read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def require_free(host: str, port: int, remedy: str) -> None:
    """Raises CannotContinue if a server cannot listen on this port."""
    if reason := why_taken(host, port):
        raise CannotContinue(f"port {port} on {host} is taken ({reason}): {remedy}")


def accepts(host: str, port: int) -> bool:
    """Whether a server listens on this port. A client of Kafka would log a warning for each try."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Write a file that `java.util.Properties` reads as these values. Only this user may read it: it may hold passwords."""
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text("".join(f"{name}={_escaped(value)}\n" for name, value in properties.items()))
    temporary.replace(path)


def _escaped(value: str) -> str:
    """For one line that begins with no space the escapes of `java.util.Properties` are those of JSON."""
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
