"""A deployment with prefixes on a broker that denies by default: each process connects as its own user, with the rights that are printed for it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from kafka.admin import ConfigResource, ConfigResourceType
from typer.testing import CliRunner, Result

from cli.app import app
from infra.kafka.clients import admin
from infra.kafka.rights import PROCESSES, Right, process_rights
from infra.kafka.topic_reader import TopicReader
from infra.process.child import Child
from infra.process.environment import environment
from infra.settings import Settings, load
from schemas.topics import Topic
from tests.support.authorizing_broker import AuthorizingBroker

TOPIC_PREFIX, GROUP_PREFIX = "team.", "team.group."
START_S, WAIT_S, STOP_S = 240.0, 120.0, 60.0
MODULES = {"promoter": ["trainer.promotion"]}
#: A topic of the platform's own, and its mapping. It has no prefix.
REVIEWS = "shop.reviews"
SOURCES = f"""
[[sources]]
topic = "{REVIEWS}"
message = "interaction"
fields = {{ user = "value.user", content = "value.text", response = "value.genre", occurred_at = "record.timestamp" }}
constants = {{ tenant = "acme", domain = "movie_tag" }}
"""


def user_of(process: str) -> str:
    return process.replace(" ", "-")


USERS = tuple(map(user_of, PROCESSES))


class DeploymentWithRights:
    """`settings` are the superuser's, who may do everything."""

    def __init__(self, broker: AuthorizingBroker, folder: Path, base_url: str) -> None:
        self.broker, self._folder = broker, folder
        sources = folder / "sources.toml"
        sources.write_text(SOURCES, encoding="utf-8")
        self.settings = load(
            kafka={
                "bootstrap_servers": broker.bootstrap_servers,
                "topic_prefix": TOPIC_PREFIX,
                "group_prefix": GROUP_PREFIX,
                "instance": "test",
                "session_timeout_ms": 6000,
            },
            stack={"dir": folder / "state"},
            base={"url": base_url},
            reflection={"engine": "transformers"},
            quality={"every_s": 0.2},
            sources={"file": sources},
        )
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for child in self._children.values():
            child.kill()

    def settings_of(self, process: str) -> Settings:
        return self.broker.settings_of(self.settings, user_of(process))

    def rights(self, process: str) -> tuple[Right, ...]:
        return tuple(right for right in process_rights(self.settings, process) if not right.is_optional)

    def grant(self, process: str, without: Right | None = None) -> None:
        self.broker.grant(user_of(process), [right for right in self.rights(process) if right != without])

    def command(self, process: str, *arguments: str) -> Result:
        """`retouch ARGUMENTS` as the user of this process."""
        return CliRunner().invoke(app, arguments, env=environment(self.settings_of(process)))

    def start(self, *processes: str) -> None:
        """Returns when all are ready."""
        for process in processes:
            self.launch(process)
        deadline = time.monotonic() + START_S
        for process in processes:
            while not self._ready(process).exists():
                assert self._children[process].is_running, f"{process} ended: {self.log(process)}"
                assert time.monotonic() < deadline, f"{process} is not ready: {self.log(process)}"
                time.sleep(0.05)

    def launch(self, process: str, *flags: str) -> Child:
        if process in self._children:
            self._children[process].kill()
        self._ready(process).unlink(missing_ok=True)
        self._log(process).unlink(missing_ok=True)
        settings = self.settings_of(process).model_copy(update={"ready_file": self._ready(process)})
        command = [sys.executable, "-m", *MODULES.get(process, process.split()), *flags]
        child = self._children[process] = Child(process, command, self._log(process), environment(settings))
        child.start()
        return child

    def child(self, process: str) -> Child:
        return self._children[process]

    def stop(self, *processes: str) -> None:
        """Each ends by itself, with exit code 0."""
        for process in processes:
            self._children[process].terminate()
        for process in processes:
            assert self._children[process].wait(STOP_S), f"{process} does not stop: {self.log(process)}"
            assert self._children[process].exit_code == 0, self.log(process)

    def log(self, process: str) -> str:
        return self._log(process).read_text() if self._log(process).exists() else ""

    def wait_in_log(self, process: str, text: str) -> None:
        self.wait_until(lambda: text in self.log(process), f"{text!r} is not in the log of {process}")

    def wait_until(self, holds: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, f"{problem}; ended: {[name for name, child in self._children.items() if not child.is_running]}"
            time.sleep(0.1)

    def records(self, topic: Topic | str, count: int) -> Sequence[Any]:
        """All records of a topic up to its present end, once there are `count`, as the superuser reads them."""
        name = topic if isinstance(topic, str) else topic.name
        found: list[Any] = []
        with TopicReader(self.settings, "test-reader") as reader:

            def has_all() -> bool:
                found[:] = reader.read(reader.ranges(name))
                return len(found) >= count

            self.wait_until(has_all, f"{name} has not {count} records")
        return found

    def create_topic(self, name: str) -> None:
        """As the superuser, in the platform's place."""
        with closing(admin(self.settings)) as client:
            client.create_topics({name: {"num_partitions": 2, "replication_factor": 1}})
            client.wait_for_topics([name])

    def delete_topic(self, declared: str) -> None:
        with closing(admin(self.settings)) as client:
            client.delete_topics([declared])

    def alter_topic(self, declared: str, configs: dict[str, str]) -> None:
        with closing(admin(self.settings)) as client:
            client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, declared, configs=configs)])

    def remove_index(self) -> None:
        shutil.rmtree(self.settings.index_dir)

    def _ready(self, process: str) -> Path:
        return self._folder / f"{user_of(process)}.ready"

    def _log(self, process: str) -> Path:
        return self._folder / f"{user_of(process)}.log"


@contextmanager
def with_topics(broker: AuthorizingBroker, folder: Path, base_url: str) -> Iterator[DeploymentWithRights]:
    """All topics exist, created by the user who applies the topology and by the platform, and every process has its rights. No process runs."""
    with DeploymentWithRights(broker, folder, base_url) as deployment:
        for process in PROCESSES:
            deployment.grant(process)
        applied = deployment.command("retouch topics apply", "topics", "apply")
        assert applied.exit_code == 0, applied.output
        deployment.create_topic(REVIEWS)
        yield deployment
