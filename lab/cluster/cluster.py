"""A Kafka cluster of three nodes on this machine. Each node is a broker and a controller, so the death of one tests both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.local.kafka_node import accepts
from infra.process.file_lock import PidLock
from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from lab.cluster.certificates import Authority
from lab.cluster.layout import NODES, ClusterLayout, Security, layout_of, node_name
from lab.cluster.node import ClusterNode
from lab.cluster.properties import ADMIN
from lab.cluster.users import kafka_settings, passwords, write_files

log = logging.getLogger(__name__)

START_TIMEOUT_S = 240.0
#: All at once take 7 s on two cores (2026-12-01); a node whose controllers are away may take minutes.
STOP_TIMEOUT_S = 30.0
BOOTSTRAP_MS, STEP_S = 3_000, 0.2


class Cluster:
    """`with Cluster(settings, state) as cluster:` runs inside the block. It holds the lock of the state directory, and keeps data, users and ports there.

    `users` may connect, besides the super user ADMIN. Without ACLs a user may do everything. Start it from a thread that outlives it.
    """

    def __init__(self, settings: Settings, state: Path, *, users: Iterable[str] = (), security: Security | None = None) -> None:
        self.security = security or Security()
        self.security.check()
        self.state = state.resolve()
        self._settings = settings
        self._users = (ADMIN, *users)
        self._lock = PidLock(self.state / "lock", lambda pid: f"a cluster runs already in {self.state} (pid {pid}): stop it, or choose another --out")
        self._nodes: dict[int, ClusterNode] = {}
        self._passwords: dict[str, str] = {}
        self._layout: ClusterLayout | None = None

    @property
    def layout(self) -> ClusterLayout:
        assert self._layout is not None, "the cluster has not been started"
        return self._layout

    @property
    def ca(self) -> Path:
        return self.state / "pki" / "ca.pem"

    @property
    def data_dirs(self) -> dict[str, Path]:
        """The data of each node."""
        return {node_name(number): node.dir / "data" for number, node in self._nodes.items()}

    def start(self) -> None:
        """Start all nodes, and block until they form a cluster and have the users. Kills them if they do not. Raises CannotContinue."""
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotContinue(f"cannot write to {self.state}: {error.strerror or error}; choose another --out") from error
        self._lock.acquire()
        try:
            self._prepare()
            for number in NODES:
                self.launch(number)
            self.wait(self.is_in_sync, START_TIMEOUT_S, "form a cluster")
            if self.security.scram:
                self._create_users()
                self.wait(self._has_users, START_TIMEOUT_S, "take the users")
        except BaseException:
            for node in self._nodes.values():
                node.kill()
            self._lock.release()
            raise

    def _prepare(self) -> None:
        """Layout, certificates and passwords."""
        self._layout = layout_of(self.state, self._settings.stack.host, self.security)
        cache_dir = self._settings.stack.cache_dir.resolve()
        self._nodes = {node.id: ClusterNode(node, self._layout, self.state, cache_dir) for node in self._layout.nodes}
        self._passwords = passwords(self.state, self._users)
        if self.security.tls:
            authority = Authority(self.state / "pki")
            for node in self._nodes.values():
                node.write_stores(authority)
            authority.sign(ADMIN)
        write_files(self.state, self._layout, self.ca, self._passwords)

    def launch(self, number: int) -> None:
        """Start a node that does not run, and return at once."""
        self._nodes[number].launch()

    def kill(self, number: int) -> None:
        """SIGKILL."""
        self._nodes[number].kill()

    def request_stop(self, number: int) -> None:
        """SIGTERM. The node hands over its partitions, and ends."""
        self._nodes[number].child.terminate()

    def is_running(self, number: int) -> bool:
        return self._nodes[number].child.is_running

    def why_ended(self, number: int) -> str:
        """Why a node that does not run has ended."""
        return self._nodes[number].child.why_ended()

    def pid(self, number: int) -> int | None:
        return self._nodes[number].child.pid

    def settings_file(self, user: str) -> Path:
        """The file for `RETOUCH_CONFIG`."""
        return self.state / f"{user}.toml"

    def settings_of(self, user: str) -> Settings:
        """The settings with the cluster's address and this user."""
        kafka = kafka_settings(self.layout, self.ca, user, self._passwords[user])
        return self._settings.changed(kafka=KafkaSettings(**kafka, **of_no_broker(self._settings)))

    def active_controller(self) -> int:
        """The node that leads the controllers' quorum. Raises RetryLater while there is none."""
        with self.administrator() as client:
            (topic,) = client.describe_metadata_quorum()["topics"]
        leader = int(topic["partitions"][0]["leader_id"])
        if leader not in NODES:
            raise RetryLater("the controllers have no leader")
        return leader

    def is_in_sync(self) -> bool:
        """Whether all nodes serve, and every partition has a leader and all its replicas in sync."""
        if not all(accepts(self.layout.host, node.internal_port) for node in self.layout.nodes):
            return False
        try:
            with self.administrator() as client:
                brokers = {broker["broker_id"] for broker in client.describe_cluster()["brokers"] if not broker["is_fenced"]}
                partitions = [partition for topic in client.describe_topics() for partition in topic["partitions"]]
        except RetryLater:
            return False
        return brokers == set(NODES) and all(map(_is_in_sync, partitions))

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Block until the condition holds. Raises CannotContinue with the reason after `timeout_s`, or with a log's end if a node has ended."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            for node in self._nodes.values():
                if not node.child.is_running:
                    raise CannotContinue(f"{node.child.name} ended: {node.child.why_ended()}; end of {node.child.log}:\n{node.child.last_lines()}")
            if time.monotonic() > deadline:
                raise CannotContinue(f"the nodes did not {what} within {timeout_s:.0f} s; logs are in {self.state / 'logs'}")
            time.sleep(STEP_S)

    @contextmanager
    def administrator(self) -> Iterator[Any]:
        """An admin client as the super user, on the internal listener. Raises RetryLater for errors of the client."""
        settings = self.admin_settings
        with broker_errors(settings), closing(admin(settings, "retouch-lab-cluster", bootstrap_timeout_ms=BOOTSTRAP_MS)) as client:
            yield client

    @property
    def admin_settings(self) -> Settings:
        """Of the super user, with the internal addresses that accept connections; all of them if none does."""
        addresses = [f"{self.layout.host}:{node.internal_port}" for node in self.layout.nodes]
        serving = [address for address, node in zip(addresses, self.layout.nodes, strict=True) if accepts(self.layout.host, node.internal_port)]
        kafka: dict[str, Any] = {"bootstrap_servers": ",".join(serving or addresses), "security_protocol": self.security.internal_protocol}
        if self.security.tls:
            kafka |= {"ssl_cafile": self.ca, "ssl_certfile": self.ca.with_name(f"{ADMIN}.pem"), "ssl_keyfile": self.ca.with_name(f"{ADMIN}-key.pem")}
        return self._settings.changed(kafka=KafkaSettings(**kafka))

    def stop(self) -> None:
        """Stop all nodes and free the lock. Idempotent."""
        for node in self._nodes.values():
            node.child.terminate()
        for node in self._nodes.values():
            node.child.wait(STOP_TIMEOUT_S)
            node.kill()
        if self._lock.is_held:
            self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _create_users(self) -> None:
        from kafka.admin import UserScramCredentialUpsertion

        with self.administrator() as client:
            users = [UserScramCredentialUpsertion(user, "SCRAM-SHA-512", password) for user, password in self._passwords.items()]
            for user, error in client.alter_user_scram_credentials(users).items():
                if error:
                    raise CannotContinue(f"the cluster refuses the user {user}: {error}")

    def _has_users(self) -> bool:
        """Whether every node has the users, which the controllers pass on to it a moment after their creation."""
        settings = self.settings_of(self._users[-1])
        try:
            for node in self.layout.nodes:
                of_node = settings.changed(kafka={"bootstrap_servers": f"{self.layout.host}:{node.client_port}"})
                with broker_errors(of_node):
                    admin(of_node, "retouch-lab-cluster", bootstrap_timeout_ms=BOOTSTRAP_MS).close()
        except (RetryLater, CannotContinue):  # not reached, or the user is refused
            return False
        return True


def of_no_broker(settings: Settings) -> dict[str, Any]:
    """The settings of the section `kafka` that name no broker, user or deployment."""
    return settings.kafka.model_dump(include={"partitions", "session_timeout_ms", "instance"})


def _is_in_sync(partition: Any) -> bool:
    return partition["leader_id"] in NODES and sorted(partition["isr_nodes"]) == sorted(partition["replica_nodes"])
