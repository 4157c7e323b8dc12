"""The assignment of partitions to members that fill one history index (`streams.app.member_index`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from faust.assignor.partition_assignor import PartitionAssignor

from infra.errors import CannotContinue
from streams.app.member_index import MemberIndex, refused

#: Key of the refusal in a member's assignment.
REFUSAL = "retouch_refusal"


class OneIndexAssignor(PartitionAssignor):  # type: ignore[misc]  # Faust is not analysed
    """Faust's assignor among the members that fill one index. `refusal` is set if this member is not one of them.

    The index of this member is what `app.transport.member_index` returns.
    """

    version = 0  # Faust's layout; its own 4 makes other clients read fields that are not there
    refusal: CannotContinue | None = None
    is_accepted = False

    def metadata(self, topics: Any) -> Any:
        joined = super().metadata(topics)
        index = replace(self.app.transport.member_index(), is_accepted=self.is_accepted)
        joined.user_data = json.dumps(json.loads(joined.user_data) | index.written()).encode()
        return joined

    def assign(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        indexes = {member: MemberIndex.read(metadata.user_data) for member, metadata in member_metadata.items()}
        refusals = refused({member: index for member, index in indexes.items() if index}, self.app.conf.id)
        assignments = super().assign(cluster, {member: metadata for member, metadata in member_metadata.items() if member not in refusals})
        return assignments | {member: self._refused(reason) for member, reason in refusals.items()}

    def _refused(self, reason: str) -> Any:
        return ConsumerProtocolMemberAssignment(self.version, [], self._compress(json.dumps({REFUSAL: reason}).encode()))

    def on_assignment(self, assignment: Any) -> None:
        reason = json.loads(self._decompress(assignment.user_data)).get(REFUSAL)
        if reason is not None:
            self.refusal = CannotContinue(reason)
            return
        super().on_assignment(assignment)
        self.is_accepted = True
