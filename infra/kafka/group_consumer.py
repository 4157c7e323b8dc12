"""Membership in a consumer group, on kafka-python: join, poll, pause, commit with metadata, leave. Every call blocks, within a bound.

The member is static: `kafka.instance`, or the host's name, keeps its partitions over a restart within the session timeout. It reads committed
records only, and only `commit` commits offsets.

Workarounds for kafka-python 3.0.12:

- a join that completes between two short polls is lost, and the member hangs: `_join` waits in one long poll, and requests a rejoin;
- if another process takes a member's name, the member gets no error, only its heartbeats end: `_check_name` checks them;
- `poll` raises an error if a connection breaks during a metadata update: ours returns None, and the next call tries again.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from kafka import TopicPartition
from kafka.errors import AuthorizationError, FencedInstanceIdError, KafkaError, RetriableError
from kafka.structs import OffsetAndMetadata

from infra.errors import CannotContinue, RetouchError, RetryLater
from infra.kafka.clients import Consumer
from infra.kafka.connection_failures import AccessRefused
from infra.kafka.errors import broker_errors
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import Use, refusal
from infra.process.health import HEALTH, Condition
from infra.process.lifecycle import report_blocked
from infra.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

STABLE = "<stable>"
#: How long one attempt to join may block. Heartbeats and other members' joins continue during it.
JOIN_S = 3.0
#: How long a broker may be away while a process starts.
CONNECT_S = 60.0
RETRY_S = 0.2
#: What to check if the broker refuses a member.
REFUSED = "compare kafka.session_timeout_ms with the broker's group.min.session.timeout.ms and group.max.session.timeout.ms"


class GroupConsumer:
    """Not safe between threads, except `committed`, `commit` and `ends`, which kafka-python serves while another thread polls."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        assignor: Any,
        connect_s: float = CONNECT_S,
        client_id: str | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`assignor`: a class or an object of kafka-python's. `client_id`: the member's name, by default that of the group on this instance."""
        self._names = KafkaNames.of(settings)
        self.group = group
        self._connect_s = connect_s
        self._start_deadline = 0.0
        self._stop = stop or threading.Event()
        self._is_blocked = False
        self.client_id = client_id or f"{group}-{settings.kafka.instance or socket.gethostname()}"
        self._settings = settings
        self._assignor = assignor
        self._consumer: Any = None

    @property
    def group_on_broker(self) -> str:
        """The group with its prefix, for operators who look for it on the broker."""
        return self._names.group(self.group)

    @property
    def is_connected(self) -> bool:
        return self._consumer is not None

    @property
    def is_member(self) -> bool:
        """Whether this process is a member of a stable group."""
        return self.is_connected and bool(self.metadata.state == STABLE)

    @property
    def heard_at(self) -> float:
        """When the coordinator last answered a heartbeat (monotonic)."""
        return float(self._consumer._coordinator.heartbeat.last_receive)

    @property
    def metadata(self) -> Any:
        """The membership that a commit relies on (KIP-447). Opaque."""
        return self._consumer.group_metadata()

    def connect(self) -> None:
        """Raises AccessRefused, and CannotContinue if the broker is away for `connect_s` or until `stop` is set. Meanwhile the process counts as blocked."""
        self._start_deadline = time.monotonic() + self._connect_s
        self._consumer = self._retried(self._make, CannotContinue)
        if self._is_blocked:
            self._is_blocked = False
            report_blocked(self._settings, None)

    def subscribe(self, topics: Sequence[str], listener: Any = None) -> None:
        self._consumer.subscribe(list(topics), listener=listener)

    def partitions_of(self, topic: str) -> set[int]:
        """Empty if the topic does not exist. Raises RetryLater if the broker is away. For `connect_s` after `connect` it retries before it raises."""
        return set(self._retried(lambda: self._consumer.partitions_for_topic(topic)) or ())

    def known_partitions(self, topic: str) -> int:
        """The number of partitions in the client's last metadata, without a request. 0 if it has none of this topic."""
        return len(self._consumer._cluster.partitions_for_topic(self._names.topic(topic)) or ())

    def poll(self, max_records: int, timeout_s: float, prepare: Callable[[], None] = lambda: None) -> list[Any] | None:
        """At most `max_records`, in the order of each partition; with 0 it only serves the group. None while the broker is away.

        Joins the group if needed, which may block for `JOIN_S`. Calls `prepare` between join and fetch, to seek and to pause. Raises
        CannotContinue if another process uses this member's name, or if the broker refuses the member; and UnreadableBatch. The process is not ready
        (`infra.process.health`) while it is no member, or while the coordinator has answered no heartbeat for a session timeout.
        """
        polled = self._poll(max_records, timeout_s, prepare)
        is_heard = time.monotonic() - self.heard_at < self._settings.kafka.session_timeout_ms / 1000
        is_serving = polled is not None and self.is_member and is_heard
        if not is_serving and (refused := self._consumer.refusal):
            raise refused
        problem = None if is_serving else f"no member of group {self.group_on_broker}, or its coordinator is away"
        HEALTH.report(Condition.GROUP, problem, self.client_id)
        return polled

    def _poll(self, max_records: int, timeout_s: float, prepare: Callable[[], None]) -> list[Any] | None:
        try:
            coordinator = self._consumer._coordinator
            if not self.is_member or coordinator.need_rejoin():
                self._join(coordinator)
            self._check_name(coordinator)
            prepare()
            if not max_records:
                coordinator.poll(timeout_ms=0)
                return []
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        except AccessRefused:
            raise
        except FencedInstanceIdError:
            raise CannotContinue(self._name_taken()) from None
        except RetriableError as error:
            log.info("the coordinator is away", extra={"group": self.group, "reason": type(error).__name__})
            time.sleep(min(timeout_s, 0.1))
            return None
        except KafkaError as error:
            address, kind = self._settings.bootstrap_servers(), type(error).__name__
            problem = refusal(self._settings.kafka, Use(group=self.group_on_broker), error) or REFUSED
            raise CannotContinue(f"the broker at {address} refuses {self.client_id} in group {self.group_on_broker} ({kind}): {problem}") from error
        return [record for batch in polled.values() for record in batch]

    def assignment(self) -> set[TopicPartition]:
        return set(self._consumer.assignment())

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each assigned partition, if the client has one."""
        positions = {partition: state.position.offset for partition, state in list(self._states().items()) if state.has_valid_position}
        return self._names.by_declared_partition(positions)

    def position(self, partition: TopicPartition) -> int | None:
        """The next offset of this partition. None if it is not assigned, or the client has no position yet."""
        state = self._states().get(self._names.partition(partition))
        return state.position.offset if state is not None and state.has_valid_position else None

    def _states(self) -> dict[TopicPartition, Any]:
        """By partition with the broker's name."""
        states: dict[TopicPartition, Any] = self._consumer._subscription.assignment
        return states

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """None: to the beginning."""
        if offset is None:
            self._consumer.seek_to_beginning(partition)
        else:
            self._consumer.seek(partition, offset)

    def pause(self, partition: TopicPartition) -> None:
        self._consumer.pause(partition)

    def pause_only(self, partitions: Collection[TopicPartition]) -> None:
        """Pause these assigned partitions and resume the others. Needed before every poll: a new assignment drops earlier pauses."""
        paused, assigned = set(self._consumer.paused()), self.assignment()
        self._consumer.pause(*((assigned & set(partitions)) - paused))
        self._consumer.resume(*((paused & assigned) - set(partitions)))

    def highwater(self, partition: TopicPartition) -> int | None:
        """The partition's end, as of the last fetch. None before it."""
        end: int | None = self._consumer.highwater(partition)
        return end

    def beginnings(self, partitions: Sequence[TopicPartition], timeout_s: float) -> dict[TopicPartition, int]:
        offsets: dict[TopicPartition, int] = self._consumer.beginning_offsets(partitions, timeout_ms=int(timeout_s * 1000))
        return offsets

    def ends(self, partitions: Sequence[TopicPartition], timeout_s: float) -> dict[TopicPartition, int]:
        offsets: dict[TopicPartition, int] = self._consumer.end_offsets(partitions, timeout_ms=int(timeout_s * 1000))
        return offsets

    def committed(self, partitions: Sequence[TopicPartition], timeout_s: float) -> dict[TopicPartition, tuple[int, str]]:
        """Committed offset and metadata, after open transactions have ended. Partitions without a commit are left out."""
        committed = self._consumer._coordinator.fetch_committed_offsets(self._names.partitions(partitions), timeout_ms=int(timeout_s * 1000))
        found = {partition: (offset.offset, offset.metadata or "") for partition, offset in committed.items() if offset.offset >= 0}
        return self._names.by_declared_partition(found)

    def commit(self, positions: Mapping[TopicPartition, tuple[int, str]], timeout_s: float) -> None:
        """Commit offsets with metadata. Raises KafkaError."""
        self._consumer.commit(offsets_and_metadata(positions), timeout_ms=int(timeout_s * 1000))

    def close(self, timeout_s: float, *, leave: bool) -> None:
        """With `leave` the partitions move at once; else they wait for this instance until the session timeout."""
        HEALTH.report(Condition.GROUP, None, self.client_id)  # a process that goes on, goes on without it
        if leave:  # a static member does not leave by itself
            self._consumer._coordinator.is_dynamic_member = lambda: True
        self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def _retried(self, request: Callable[[], T], error: type[RetouchError] = RetryLater) -> T:
        """The result of `request`, which is retried until the deadline of the start. Then raises `error`. Raises CannotContinue if a right is missing."""
        while True:
            try:
                with broker_errors(self._settings, error, "answer", Use(group=self.group_on_broker)):
                    answer = request()
            except AccessRefused:
                raise
            except error as failed:
                if isinstance(failed.__cause__, AuthorizationError):
                    raise CannotContinue(str(failed)) from failed.__cause__
                log.warning("the broker is away; trying again", extra={"group": self.group, "reason": str(failed)})
                if not self.is_connected:
                    self._is_blocked = True
                    report_blocked(self._settings, str(failed))
                if time.monotonic() > self._start_deadline or self._stop.wait(RETRY_S):
                    raise
            else:
                return answer

    async def sleep(self, seconds: float) -> None:
        """For rebalance listeners: lets the client's own thread serve other calls."""
        await self._consumer._net.sleep(seconds)

    def _join(self, coordinator: Any) -> None:
        task = coordinator._join_task
        if task is not None and task.is_done and not coordinator.need_rejoin() and not self.is_member:
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=JOIN_S * 1000)

    def _check_name(self, coordinator: Any) -> None:
        if self.is_member and not coordinator._heartbeat_enabled and not coordinator.rejoining and not coordinator.need_rejoin():
            raise CannotContinue(self._name_taken())

    def _name_taken(self) -> str:
        return (
            f"this process lost its membership in group {self.group_on_broker}: another process uses its name {self.client_id} "
            "(give each process its own kafka.instance), or this process was paused for too long"
        )

    def _make(self) -> Any:
        timeout_ms = self._settings.kafka.session_timeout_ms
        return Consumer(
            self._settings,
            client_id=self.client_id,
            group_id=self.group,
            group_instance_id=self.client_id,
            partition_assignment_strategy=[self._assignor],
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=min(1000, timeout_ms // 5),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=250,
            retry_backoff_ms=50,
        )


def offsets_and_metadata(positions: Mapping[TopicPartition, tuple[int, str]]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {partition: OffsetAndMetadata(offset, metadata, -1) for partition, (offset, metadata) in positions.items()}
