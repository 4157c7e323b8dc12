"""All members of the streams' group fill one history index: refuses a member that fills another index than the others.

With two indexes each would have the history of its own partitions, and every query would find a part of it. Each member puts its index into the metadata
with which it joins the group. So the check needs no state directory, topic or right of its own, and works across hosts. It is made twice:

- before a process joins (`wait_for_other_indexes`), so that the group is not disturbed. A member that was killed is in the group until its session ends; a new
  process waits for that, and is refused only by a member that stays;
- by the leader of the group (`refused`, in `streams.app.one_index`), for processes that start at the same time. The one that has been accepted before, or else
  the older one, stays. The other gets no partitions, and the reason.

An index inside a process is compared by host and directory, one on a server by the id that its collection got when it was created: hosts may reach one
server by different URLs, and an alias is another name of a collection. Members with the same `index.url` and `index.collection` always fit: a rebuild lets an
alias lead to another collection while they run. Where an id is not known, because the server is away or the collection has none, only the names are compared:
two fit if they name one collection, also if one of them names it by an alias.
Members of a release without this check are left alone. A member whose metadata kafka-python cannot decode is compared by the leader only.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import CannotContinue
from infra.kafka.names import KafkaNames
from infra.settings import Settings
from streams.app.processor import GROUP

#: Key of the member's index in Faust's metadata.
INDEX = "retouch_index"
POLL_S = 0.2
#: States of a group whose members the broker describes with their metadata.
SETTLED = frozenset({"Stable", "Empty", "Dead"})


@dataclass(frozen=True)
class MemberIndex:
    """Which index a member fills. `directory`: of an index inside the process; None: a server's, which `url` and `collection` name. `since`: nanoseconds
    since 1970, when it started. `identity`: of the server's collection, None if it is not known; then `target` is the collection's own name, if that is known.
    """

    host: str
    pid: int
    directory: str | None
    since: int = 0
    is_accepted: bool = False  # it has had an assignment
    url: str | None = None
    collection: str | None = None
    identity: str | None = None
    target: str | None = None

    @classmethod
    def of(cls, settings: Settings, *, is_embedded: bool) -> MemberIndex:
        host, since = settings.kafka.instance or socket.gethostname(), time.time_ns()
        if is_embedded:
            return cls(host, os.getpid(), str(settings.index_dir.resolve()), since)
        return cls(host, os.getpid(), None, since, url=settings.index.url, collection=settings.index.collection)

    @classmethod
    def read(cls, metadata: bytes | None) -> MemberIndex | None:
        """From the metadata of a member; None if it has none."""
        try:
            fields = json.loads(metadata or b"")[INDEX]
            own = (str(fields["host"]), int(fields["pid"]), fields["directory"], int(fields["since"]), bool(fields["is_accepted"]))
            return cls(*own, *map(fields.get, ("url", "collection", "identity", "target")))
        except (ValueError, KeyError, TypeError):
            return None

    def written(self) -> dict[str, Any]:
        return {INDEX: asdict(self)}

    def conflicts_with(self, other: MemberIndex) -> bool:
        """Whether the two fill different indexes. A restarted process fills the same one."""
        if self.directory is not None or other.directory is not None:
            return (self.host, self.directory) != (other.host, other.directory)
        if (self.url, self.collection) == (other.url, other.collection) or None in (self.collection, other.collection):
            return False
        if self.identity and other.identity:
            return self.identity != other.identity
        return not {self.collection, self.target or self.collection} & {other.collection, other.target or other.collection}

    def __str__(self) -> str:
        on_server = f"the collection {self.collection!r} at {self.url}" if self.collection else "a Qdrant server's index"
        where = f"the index in {self.directory}" if self.directory else on_server
        return f"{self.host}, pid {self.pid}, with {where}"


def refusal_text(own: MemberIndex, other: MemberIndex, group: str) -> str:
    return (
        f"this process ({own}) cannot join group {group}: its member ({other}) fills another index, so each would have a part of the history. "
        "Stop one of the two, or set index.url (QDRANT_URL) and index.collection of both to one collection of one Qdrant server"
    )


def wait_for_other_indexes(client: Any, names: KafkaNames, own: MemberIndex, timeout_s: float) -> None:
    """Returns once no member of the group fills another index. Blocks for `timeout_s` at most, then raises CannotContinue if one still does.

    Returns too if the broker does not describe the members until then, because the group is in a rebalance: the leader checks them again.
    """
    group, deadline = names.group(GROUP), time.monotonic() + timeout_s
    while True:
        state, metadata = client.group_members(GROUP)
        members = filter(None, map(MemberIndex.read, metadata))
        other = next((member for member in members if own.conflicts_with(member)), None)
        if state in SETTLED and other is None:
            return
        if time.monotonic() >= deadline:
            if other is None:
                return
            raise CannotContinue(refusal_text(own, other, group))
        time.sleep(POLL_S)


def refused(members: Mapping[str, MemberIndex], group: str) -> dict[str, str]:
    """The members that fill another index than the first one, with the reason. First are members that were accepted before, of them the oldest."""
    if not members:
        return {}
    first = members[min(members, key=lambda member: (not members[member].is_accepted, members[member].since, member))]
    return {member: refusal_text(index, first, group) for member, index in members.items() if first.conflicts_with(index)}
