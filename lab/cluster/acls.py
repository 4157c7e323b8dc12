"""The users of a deployment on the cluster, and the ACLs that allow each what it needs, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infra.errors import CannotContinue
from infra.kafka.rights import COMMANDS, PLATFORM, TOPICS_APPLY, Right, process_rights
from infra.settings import Settings
from lab.cluster.cluster import Cluster

#: Applies the topology, and uses the commands.
OPERATOR = "operator"
#: Asks, and gives feedback.
PLATFORM_USER = "platform"

#: The processes of the local stack with their names in `infra.kafka.rights`.
_PROCESSES = {
    "streams": "streams",
    "base": "workers base",
    "strategies": "workers strategies",
    "profiles": "workers profiles",
    "teacher": "workers teacher",
    "reflection": "workers reflection",
    "quality": "streams quality",
    "promoter": "promoter",
    "sources": "workers sources",
    "trainer": "trainer",
}


def processes_of() -> tuple[str, ...]:
    """The processes of the local stack that use the broker."""
    return tuple(_PROCESSES)


def user_of(process: str) -> str:
    """The user of a process of the local stack."""
    return f"retouch-{process}"


def users() -> tuple[str, ...]:
    return (OPERATOR, PLATFORM_USER, *map(user_of, _PROCESSES))


def run_by(user: str) -> tuple[str, ...]:
    """The names in `infra.kafka.rights` of what this user runs."""
    return ({OPERATOR: (TOPICS_APPLY, COMMANDS), PLATFORM_USER: (PLATFORM,)} | {user_of(name): (process,) for name, process in _PROCESSES.items()})[user]


def allow(cluster: Cluster, settings: Settings) -> None:
    """Create the ACLs of all users, for the names in the settings. Raises CannotContinue if the cluster refuses one. The cluster has the users."""
    acls = [acl for user in users() for process in run_by(user) for acl in acls_of(user, process_rights(settings, process))]
    with cluster.administrator() as client:
        failed = client.create_acls(acls)["failed"]
    if failed:
        raise CannotContinue(f"the cluster refuses {len(failed)} of {len(acls)} ACLs ({failed[0].__name__})")


def acls_of(user: str, rights: Iterable[Right]) -> list[Any]:
    """The rights as ACLs of kafka-python."""
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

    return [
        ACL(
            f"User:{user}",
            "*",
            ACLOperation[right.operation.value],
            ACLPermissionType.ALLOW,
            ResourcePattern(
                ResourceType[right.resource.value], right.name, ACLResourcePatternType.PREFIXED if right.is_prefix else ACLResourcePatternType.LITERAL
            ),
        )
        for right in rights
    ]
