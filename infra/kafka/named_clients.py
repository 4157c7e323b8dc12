"""kafka-python's clients, called with declared names: each call adds the prefixes of `infra.kafka.names`, and each result is without them.

The methods below are those that take or return names. `infra.kafka.clients` makes these clients; nothing else makes a client of kafka-python.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import GroupAuthorizationFailedError, RetriableError, TopicAuthorizationFailedError

from infra.kafka.connection_failures import AccessRefused
from infra.kafka.connections import Connections
from infra.kafka.names import KafkaNames

log = logging.getLogger(__name__)

#: How long the threads of a producer whose transaction failed may take to end.
CLOSE_S = 5.0


class NamedProducer(KafkaProducer):  # type: ignore[misc]  # the client has no types
    """The metadata of a sent record names the topic as the broker does."""

    def __init__(self, names: KafkaNames, *, transactional_id: str | None = None, **options: Any) -> None:
        self._names = names
        super().__init__(transactional_id=transactional_id and names.group(transactional_id), **options)

    @property
    def refusal(self) -> AccessRefused | None:
        """Set while the broker refuses this client."""
        return _refusal(self._sender._client._manager)

    def send(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        return super().send(self._names.topic(topic), *args, **kwargs)

    def partitions_for(self, topic: str) -> Any:
        return super().partitions_for(self._names.topic(topic))

    def close(self, timeout: float | None = None, **options: Any) -> None:
        """After a failed transaction kafka-python's own close raises the transaction's error first, and its threads would go on connecting for ever."""
        try:
            super().close(timeout, **options)
        finally:
            if not getattr(self, "_closed", True):
                self._sender.force_close()
                self._sender.join(CLOSE_S)
                self._closed = True

    def send_offsets_to_transaction(self, offsets: Mapping[Any, Any], group_metadata: Any) -> None:
        super().send_offsets_to_transaction(self._names.by_partition(offsets), group_metadata)


class NamedConsumer(KafkaConsumer):  # type: ignore[misc]
    """Not an iterator. Its private state has the broker's names; the topics of its records are those that `infra.kafka.clients` sets."""

    def __init__(self, names: KafkaNames, *, group_id: str | None = None, group_instance_id: str | None = None, **options: Any) -> None:
        self._names = names
        super().__init__(group_id=group_id and names.group(group_id), group_instance_id=group_instance_id and names.group(group_instance_id), **options)

    def __next__(self) -> NoReturn:
        raise TypeError("call poll: iteration does not convert names")

    @property
    def refusal(self) -> AccessRefused | None:
        """Set while the broker refuses this client, because something has changed since it connected."""
        return _refusal(self._manager)

    def topics(self) -> set[str]:
        """The topics with the prefix."""
        return {self._names.declared(topic) for topic in super().topics() if self._names.has_prefix(topic)}

    def partitions_for_topic(self, topic: str) -> Any:
        return super().partitions_for_topic(self._names.topic(topic))

    def subscribe(self, topics: Sequence[str], listener: AsyncConsumerRebalanceListener | None = None) -> None:
        super().subscribe([self._names.topic(topic) for topic in topics], listener=listener and _Listener(self._names, listener))

    def subscription(self) -> set[str] | None:
        subscribed = super().subscription()
        return None if subscribed is None else {self._names.declared(topic) for topic in subscribed}

    def assign(self, partitions: Iterable[Any]) -> None:
        super().assign(self._names.partitions(partitions))

    def assignment(self) -> set[Any]:
        return set(map(self._names.declared_partition, super().assignment()))

    def poll(self, *args: Any, **kwargs: Any) -> dict[Any, list[Any]]:
        """Raises AccessRefused if there are no records because the broker refuses this client: kafka-python would try again for ever."""
        records = self._names.by_declared_partition(super().poll(*args, **kwargs))
        if not records and (refusal := self.refusal):
            raise refusal
        return records

    def pause(self, *partitions: Any) -> None:
        super().pause(*self._names.partitions(partitions))

    def paused(self) -> set[Any]:
        return set(map(self._names.declared_partition, super().paused()))

    def resume(self, *partitions: Any) -> None:
        super().resume(*self._names.partitions(partitions))

    def seek(self, partition: Any, offset: Any) -> None:
        super().seek(self._names.partition(partition), offset)

    def seek_to_beginning(self, *partitions: Any) -> None:
        super().seek_to_beginning(*self._names.partitions(partitions))

    def seek_to_end(self, *partitions: Any) -> None:
        super().seek_to_end(*self._names.partitions(partitions))

    def position(self, partition: Any, *args: Any, **kwargs: Any) -> Any:
        return super().position(self._names.partition(partition), *args, **kwargs)

    def highwater(self, partition: Any) -> Any:
        return self.highwater_on_broker(self._names.partition(partition))

    def highwater_on_broker(self, partition: Any) -> Any:
        """`highwater` of a partition with the broker's name, for the decoding of batches."""
        return super().highwater(partition)

    def beginning_offsets(self, partitions: Iterable[Any], *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return self._names.by_declared_partition(super().beginning_offsets(self._names.partitions(partitions), *args, **kwargs))

    def end_offsets(self, partitions: Iterable[Any], *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return self._names.by_declared_partition(super().end_offsets(self._names.partitions(partitions), *args, **kwargs))

    def offsets_for_times(self, timestamps: Mapping[Any, int], *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return self._names.by_declared_partition(super().offsets_for_times(self._names.by_partition(timestamps), *args, **kwargs))

    def committed(self, partition: Any, *args: Any, **kwargs: Any) -> Any:
        return super().committed(self._names.partition(partition), *args, **kwargs)

    def commit(self, offsets: Mapping[Any, Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().commit(offsets and self._names.by_partition(offsets), *args, **kwargs)

    def commit_async(self, offsets: Mapping[Any, Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().commit_async(offsets and self._names.by_partition(offsets), *args, **kwargs)


def _refusal(connections: Connections) -> AccessRefused | None:
    return connections.refusal


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, names: KafkaNames, listener: Any) -> None:
        self._names, self._listener = names, listener

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        await self._listener.on_partitions_assigned(set(map(self._names.declared_partition, assigned)))

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        await self._listener.on_partitions_revoked(set(map(self._names.declared_partition, revoked)))

    async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        await self._listener.on_partitions_lost(set(map(self._names.declared_partition, lost)))


class Admin:
    """The requests of KafkaAdminClient that this project uses. The options are those of that client."""

    def __init__(self, names: KafkaNames, **options: Any) -> None:
        self._names = names
        self._client = KafkaAdminClient(**options)
        self._undecoded: set[str] = set()  # ids of members that were logged

    def close(self) -> None:
        self._client.close()

    def list_topics(self) -> list[str]:
        """The topics with the prefix."""
        return [self._names.declared(topic) for topic in self._client.list_topics() if self._names.has_prefix(topic)]

    def describe_topics(self, topics: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """These topics; for None all with the prefix that the user may see. A topic that cannot be described has an `error_code`."""
        described = self._client.describe_topics(None if topics is None else [self._names.topic(topic) for topic in topics])
        return [topic | {"name": self._names.declared(topic["name"])} for topic in described if self._names.has_prefix(topic["name"])]

    def granted_on_topics(self, on_broker: Collection[str]) -> dict[str, frozenset[str] | None]:
        """The operations that the user may do on these topics, by the broker's names; None if the topic does not exist or the broker does not say it."""
        described = self._client.describe_topics(sorted(on_broker)) if on_broker else []
        hidden = TopicAuthorizationFailedError.errno
        return {topic["name"]: frozenset() if topic["error_code"] == hidden else _granted(topic) for topic in described}

    def granted_on_group(self, on_broker: str) -> frozenset[str] | None:
        """The same of a group."""
        try:
            return _granted(self._client.describe_groups([on_broker])[on_broker])
        except GroupAuthorizationFailedError:
            return frozenset()
        except RetriableError:  # a new broker has no coordinators yet
            return None

    def group_members(self, group: str) -> tuple[str, list[bytes | None]]:
        """The group's state, and the data that each member joined with. It is empty unless the group is stable, and None if kafka-python cannot decode it,
        which is logged once for each member. Raises GroupAuthorizationFailedError.
        """
        try:
            described = self._client.describe_groups([self._names.group(group)])[self._names.group(group)]
        except RetriableError:  # a new broker has no coordinators yet, so it has no members either
            return "Empty", []
        return described["group_state"], [self._joined_with(member) for member in described["members"]]

    def _joined_with(self, member: Mapping[str, Any]) -> bytes | None:
        metadata, member_id = member["member_metadata"], member["member_id"]
        if isinstance(metadata, Mapping):
            return str(metadata["user_data"] or "").encode()  # kafka-python returns bytes as text
        if not metadata:
            return b""
        if member_id not in self._undecoded:
            self._undecoded.add(member_id)
            log.warning("cannot decode the metadata of a group's member", extra={"member": member_id})
        return None

    def create_topics(self, new: Mapping[str, Any], **options: Any) -> Any:
        answer = self._client.create_topics({self._names.topic(name): topic for name, topic in new.items()}, **options)
        return answer | {"topics": [topic | {"name": self._names.declared(topic["name"])} for topic in answer["topics"]]}

    def delete_topics(self, topics: Iterable[str], **options: Any) -> None:
        self._client.delete_topics([self._names.topic(topic) for topic in topics], **options)

    def wait_for_topics(self, topics: Iterable[str], **options: Any) -> None:
        self._client.wait_for_topics([self._names.topic(topic) for topic in topics], **options)

    def describe_configs(self, resources: Iterable[ConfigResource], **options: Any) -> dict[str, Any]:
        return self._configs(self._client.describe_configs(self._resources(resources), **options))

    def alter_configs(self, resources: Iterable[ConfigResource], **options: Any) -> dict[str, Any]:
        return self._configs(self._client.alter_configs(self._resources(resources), **options))

    def list_group_offsets(self, groups: Mapping[str, Collection[Any] | None]) -> dict[str, dict[Any, Any]]:
        """For None all offsets that the group committed for topics with the prefix."""
        declared = {self._names.group(group): group for group in groups}
        requested = {self._names.group(group): None if parts is None else self._names.partitions(parts) for group, parts in groups.items()}
        return {declared[group]: self._ours(offsets) for group, offsets in self._client.list_group_offsets(requested).items()}

    def delete_group_offsets(self, group: str, partitions: Iterable[Any]) -> dict[Any, Any]:
        return self._ours(self._client.delete_group_offsets(self._names.group(group), self._names.partitions(partitions)))

    def describe_cluster(self) -> dict[str, Any]:
        return dict(self._client.describe_cluster())

    def describe_metadata_quorum(self) -> dict[str, Any]:
        return dict(self._client.describe_metadata_quorum())

    def alter_user_scram_credentials(self, alterations: Iterable[Any]) -> dict[str, str | None]:
        """The error for each user, or None."""
        return dict(self._client.alter_user_scram_credentials(list(alterations)))

    def create_acls(self, acls: Iterable[Any]) -> dict[str, list[Any]]:
        """With the broker's names. The created ones under `succeeded`, the error types of the others under `failed`."""
        return dict(self._client.create_acls(list(acls)))

    def _ours(self, values: Mapping[Any, Any]) -> dict[Any, Any]:
        return self._names.by_declared_partition({part: value for part, value in values.items() if self._names.has_prefix(part.topic)})

    def _resources(self, resources: Iterable[ConfigResource]) -> list[ConfigResource]:
        return [
            ConfigResource(each.resource_type, self._names.topic(each.name) if _is_topic(each.resource_type.name) else each.name, each.configs)
            for each in resources
        ]

    def _configs(self, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return {
            kind: {self._names.declared(name) if _is_topic(kind) else name: answer for name, answer in by_name.items()} for kind, by_name in answers.items()
        }


def _granted(described: Mapping[str, Any]) -> frozenset[str] | None:
    """None if there are none: whoever may describe a resource has at least that right."""
    return frozenset(described.get("authorized_operations") or ()) or None


def _is_topic(kind: str) -> bool:
    return kind.lower() == "topic"
