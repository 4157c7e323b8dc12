"""Kafka's own command-line tools, of the version of the local broker: one more jar beside the broker's, fetched once and checked."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from jgo.maven import MavenContext

from infra.local.java import find_java
from infra.local.kafka_jars import VERSION, ensure_jars
from infra.process.file_lock import locked
from infra.settings import Settings

SHA256 = "62f3c5dd7aa3442d4c5bc6a95f86e2502178ea09de8e27f74d9563bf955e253c"
TIMEOUT_S = 120.0
#: The tools' classes by the names that Kafka's releases give them.
TOOLS = {
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
    "kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
}
_JAVA_OPTIONS = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


def tool_command(tool: str, cache_dir: Path) -> list[str]:
    """The command of a tool, without its arguments. The first call needs the network."""
    cache = cache_dir.resolve()
    classes = f"{ensure_jars(cache)}/*{os.pathsep}{_tools_jar(cache)}"
    return [str(find_java()), *_JAVA_OPTIONS, "-cp", classes, TOOLS[tool]]


def run_acl_command(settings: Settings, command: str) -> str:
    """Runs a printed `kafka-acls.sh ...` by the tool's class. Returns its output. The first call needs the network."""
    tool, *arguments = shlex.split(command)
    assert tool == "kafka-acls.sh"
    done = subprocess.run([*tool_command(tool, settings.stack.cache_dir), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _tools_jar(cache_dir: Path) -> Path:
    home = cache_dir / "kafka"
    jar = home / f"kafka-tools-{VERSION}.jar"
    with locked(home / "tools.lock", TIMEOUT_S):
        if not jar.exists():
            context = MavenContext(repo_cache=home / "tools.repository", local_repos=[], timeout=60)
            fetched = context.project("org.apache.kafka", "kafka-tools").at_version(VERSION).artifact().resolve()
            assert hashlib.sha256(Path(fetched).read_bytes()).hexdigest() == SHA256
            Path(fetched).replace(jar)
            shutil.rmtree(home / "tools.repository")
    return jar
