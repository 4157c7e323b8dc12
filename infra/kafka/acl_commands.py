"""ACLs as commands of Kafka's own tool, `kafka-acls.sh`, and as data. Pure.

One command takes all resources of a kind, of a pattern and with the same operations.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from infra.kafka.rights import Resource, Right

_OPTIONS = {Resource.TOPIC: "--topic", Resource.GROUP: "--group", Resource.TRANSACTIONAL_ID: "--transactional-id"}


def commands(principal: str, rights: Iterable[Right], connection: Sequence[str]) -> list[str]:
    """Shell commands that add these rights. `connection`: the arguments that name the broker and the operator's client settings."""
    by_resource: dict[tuple[Resource, bool, str], list[str]] = {}
    for right in rights:
        by_resource.setdefault((right.resource, right.is_prefix, right.name), []).append(_camel_case(right.operation))
    by_operations: dict[tuple[Resource, bool, tuple[str, ...]], list[str]] = {}
    for (resource, is_prefix, name), operations in by_resource.items():
        by_operations.setdefault((resource, is_prefix, tuple(operations)), []).append(name)
    tool = ["kafka-acls.sh", *connection, "--add", "--force", "--allow-principal", principal]
    return [shlex.join([*tool, *_arguments(*key, names)]) for key, names in by_operations.items()]


def _arguments(resource: Resource, is_prefix: bool, operations: Sequence[str], names: Sequence[str]) -> list[str]:
    arguments = [part for operation in operations for part in ("--operation", operation)]
    arguments += ["--resource-pattern-type", "prefixed"] if is_prefix else []
    if resource is Resource.CLUSTER:
        return [*arguments, "--cluster"]
    return [*arguments, *(part for name in names for part in _named(_OPTIONS[resource], name))]


def _named(option: str, name: str) -> tuple[str, ...]:
    """The tool reads a name that begins with `-` as an option of its own, unless it follows `=`."""
    return (f"{option}={name}",) if name.startswith("-") else (option, name)


def _camel_case(operation: str) -> str:
    """The tool's name of an operation: DescribeConfigs of DESCRIBE_CONFIGS."""
    return operation.title().replace("_", "")


def as_data(principal: str, rights: Iterable[Right]) -> list[dict[str, Any]]:
    """For `--json`: one ACL for each right, with the names of Kafka's admin protocol."""
    return [
        {
            "principal": principal,
            "host": "*",
            "permission": "ALLOW",
            "operation": right.operation.value,
            "resource": right.resource.value,
            "pattern": "PREFIXED" if right.is_prefix else "LITERAL",
            "name": right.name,
            "optional": right.is_optional,
        }
        for right in rights
    ]
