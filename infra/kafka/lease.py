"""A lease on Kafka: of all processes that ask for it, on any host, one holds it.

Each of them is a member of the lease's consumer group, whose assignor gives one partition to one member. The holder keeps it until it leaves, or until the
broker has received no heartbeat of it for `kafka.session_timeout_ms`. The others stand by.

A lease does not fence writes to other systems: MLflow has no compare-and-set. So the holder calls `check` before each write, which fails unless the
broker has confirmed the membership lately. A process that is paused between the check and the write can still write late.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from infra.errors import CannotContinue, RetouchError
from infra.kafka.errors import missing_topics
from infra.kafka.group_consumer import JOIN_S, GroupConsumer
from infra.process.file_lock import LockHeld
from infra.settings import Settings
from schemas.leases import lease_group
from schemas.topics import MODEL_EVENTS

log = logging.getLogger(__name__)

POLL_S = 0.1
CLOSE_S = 3.0
#: Time to join the group: the broker waits for a member that died until its session ends, and for others until they join again.
JOIN_WITHIN_S = 60.0
#: Share of the session timeout within which the last heartbeat must have been answered. The rest allows for the latency of the answer.
CONFIRMED_SHARE = 0.8


class LeaseAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # the client is untyped
    """Gives partition 0 to the holder with the newest generation, or without one to the member that waits longest. All members get the holder's description."""

    name = "retouch-lease"
    version = 0

    def __init__(self, description: str) -> None:
        self._description = description
        self._since = time.time_ns()
        self._generation = -1  # in which it last held the lease
        self.is_held = False
        self.holder: str | None = None  # its description, once it is known

    def metadata(self, topics: Any) -> Any:
        member = {"description": self._description, "generation": self._generation if self.is_held else -1, "since": self._since}
        return ConsumerProtocolSubscription(version=self.version, topics=list(topics), user_data=json.dumps(member).encode())

    @classmethod
    def assign(cls, cluster: Any, members: Sequence[Any]) -> dict[str, Any]:
        described = {member.member_id: _described(member.metadata) for member in members}
        first = min(described, key=lambda member: (-described[member]["generation"], described[member]["since"], member))
        description = described[first]["description"].encode()
        topics = members[0].metadata.topics
        return {
            member: ConsumerProtocolAssignment(
                version=cls.version, assigned_partitions=[(topic, [0]) for topic in topics] if member == first else [], user_data=description
            )
            for member in described
        }

    def on_assignment(self, assignment: Any, generation: int) -> None:
        self.is_held = bool(assignment.partitions())
        self.holder = (assignment.user_data or b"").decode(errors="replace")
        if self.is_held:
            self._generation = generation


def _described(metadata: Any) -> dict[str, Any]:
    """A member with unreadable data, of another release, comes last."""
    try:
        member = json.loads(metadata.user_data)
        return {"description": str(member["description"]), "generation": int(member["generation"]), "since": int(member["since"])}
    except (ValueError, KeyError, TypeError):
        return {"description": "a process of another release", "generation": -1, "since": 2**63}


class KafkaLease:
    """`with KafkaLease(...) as lease:` joins the group; `lease.acquire` or `lease.wait` then gets the lease, which ends with the block."""

    def __init__(self, settings: Settings, name: str) -> None:
        host, pid = settings.kafka.instance or socket.gethostname(), os.getpid()
        self.name = name
        self._settings = settings
        self._assignor = LeaseAssignor(f"{host}, pid {pid}")
        member = f"{lease_group(name)}-{host}-{pid}-{secrets.token_hex(4)}"  # no other process may have its name, or the broker ends one of the two
        self._consumer = GroupConsumer(settings, lease_group(name), self._assignor, client_id=member)
        self._confirmed_s = CONFIRMED_SHARE * settings.kafka.session_timeout_ms / 1000
        self._closing = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"lease {name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join(JOIN_S + 2 * CLOSE_S)

    def acquire(self) -> None:
        """Raises LockHeld with the holder if another process holds the lease, CannotContinue if the broker does not answer or refuses."""
        self._join(threading.Event())
        if not self._assignor.is_held:
            raise LockHeld(self.busy)

    @property
    def busy(self) -> str:
        """Says who holds the lease."""
        return f"another {self.name} is running ({self._assignor.holder}); wait for it or stop it"

    def wait(self, stop: threading.Event, within_s: float = math.inf) -> bool:
        """Stands by until this process holds the lease. False if `stop` is set or the time is over first. Raises CannotContinue as `acquire` does."""
        self._join(stop)
        logged, deadline = None, time.monotonic() + within_s
        while not stop.is_set() and not self._assignor.is_held and time.monotonic() < deadline:
            self._raise_problem()
            if logged != self._assignor.holder:
                logged = self._assignor.holder
                log.info("standing by: another process holds the lease", extra={"lease": self.name, "holder": logged})
            stop.wait(POLL_S)
        return self._assignor.is_held and not stop.is_set()

    def check(self) -> None:
        """Returns once the broker confirms this holder, at most a session timeout later. Raises CannotContinue without it, or without the lease."""
        deadline = time.monotonic() + self._confirmed_s / CONFIRMED_SHARE
        while True:
            self._raise_problem()
            if not self._assignor.is_held:
                raise CannotContinue(f"this process lost the lease {self.name}, which {self._assignor.holder} holds now")
            if time.monotonic() - self._consumer.heard_at < self._confirmed_s:
                return
            if time.monotonic() > deadline:
                raise CannotContinue(f"the broker no longer confirms that this process holds the lease {self.name}")
            time.sleep(POLL_S)

    def _join(self, stop: threading.Event) -> None:
        deadline = time.monotonic() + JOIN_WITHIN_S
        while self._assignor.holder is None and not stop.is_set():
            self._raise_problem()
            if time.monotonic() > deadline:
                group = self._consumer.group_on_broker
                raise CannotContinue(f"this process did not join group {group} within {JOIN_WITHIN_S:g} s, so it cannot take the lease {self.name}")
            stop.wait(POLL_S)

    def _raise_problem(self) -> None:
        if self._problem:
            raise CannotContinue(f"the lease {self.name} is lost: {self._problem}")

    def _run(self) -> None:
        try:
            self._consumer.connect()
            if not self._consumer.partitions_of(MODEL_EVENTS.name):
                raise missing_topics(self._settings, [MODEL_EVENTS.name])
            self._consumer.subscribe([MODEL_EVENTS.name])
            while not self._closing.is_set():
                self._consumer.poll(0, POLL_S)
                self._closing.wait(POLL_S)
        except RetouchError as error:
            self._problem = str(error)
        except Exception as error:  # the outermost frame of this thread
            self._problem = type(error).__name__
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            if self._consumer.is_connected:
                self._consumer.close(CLOSE_S, leave=True)
        except Exception as error:  # the lease then ends with the session
            log.warning("the lease was not released", extra={"lease": self.name, "reason": type(error).__name__})
