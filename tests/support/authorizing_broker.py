"""A broker that allows nothing without an ACL (StandardAuthorizer), with a listener for users with passwords. Its plain listener is the superuser's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ACLFilter, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePatternFilter, ResourceType
from pydantic import SecretStr

from infra.kafka.rights import Right
from infra.local.broker import Broker
from infra.process.ports import free_port
from infra.settings import Settings, load
from lab.cluster.acls import acls_of

LISTENER = "USERS"
PASSWORD = "right-password"
WAIT_S = 60.0


class AuthorizingBroker(Broker):
    """`address` is the listener of `users`: SASL PLAIN over plain text on loopback. `bootstrap_servers` is the superuser's."""

    def __init__(self, settings: Settings, users: Iterable[str]) -> None:
        super().__init__(settings)
        self._users_port = free_port(settings.stack.host)
        self._users = tuple(users)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._users_port}"

    def settings_of(self, settings: Settings, user: str) -> Settings:
        """`settings`, to connect as this user."""
        login = {"sasl_mechanism": "PLAIN", "sasl_username": user, "sasl_password": SecretStr(PASSWORD)}
        return settings.changed(kafka={"bootstrap_servers": self.address, "security_protocol": "SASL_PLAINTEXT", **login})

    def grant(self, user: str, rights: Iterable[Right]) -> None:
        """Returns when the broker knows them."""
        acls = acls_of(user, rights)
        with self._superuser() as client:
            before = len(_acls_of(client, user))
            assert not client.create_acls(acls)["failed"]
            _wait_for_count(client, user, before + len(acls))

    def revoke(self, user: str, right: Right) -> None:
        with self._superuser() as client:
            before = len(_acls_of(client, user))
            client.delete_acls([_filter(user, right)])
            _wait_for_count(client, user, before - 1)

    def granted(self, user: str) -> set[tuple[str, str, str, bool]]:
        """What the broker has: resource, name, operation, and whether the name is a prefix."""
        with self._superuser() as client:
            found = [(acl.resource_pattern, acl.operation) for acl in _acls_of(client, user)]
        prefixed = ACLResourcePatternType.PREFIXED
        return {
            (ResourceType(pattern.resource_type).name, pattern.resource_name, operation.name, pattern.pattern_type == prefixed) for pattern, operation in found
        }

    @contextmanager
    def _superuser(self) -> Iterator[Any]:
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)) as client:
            yield client

    def _properties(self, controller: int, data: str) -> dict[str, str]:
        properties = super()._properties(controller, data)
        for setting in ("listeners", "advertised.listeners"):
            properties[setting] += f",{LISTENER}://{self.address}"
        properties["listener.security.protocol.map"] += f",{LISTENER}:SASL_PLAINTEXT"
        passwords = " ".join(f'user_{user}="{PASSWORD}"' for user in self._users)
        return properties | {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            f"listener.name.{LISTENER.lower()}.sasl.enabled.mechanisms": "PLAIN",
            f"listener.name.{LISTENER.lower()}.plain.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule required {passwords};",
        }


@contextmanager
def authorizing_broker(directory: Path, users: Iterable[str]) -> Iterator[AuthorizingBroker]:
    """A new one without topics and ACLs."""
    with AuthorizingBroker(load(stack={"dir": directory}), users) as running:
        yield running


def _filter(user: str, right: Right) -> Any:
    pattern_type = ACLResourcePatternType.PREFIXED if right.is_prefix else ACLResourcePatternType.LITERAL
    pattern = ResourcePatternFilter(ResourceType[right.resource.value], right.name, pattern_type)
    return ACLFilter(f"User:{user}", "*", ACLOperation[right.operation.value], ACLPermissionType.ALLOW, pattern)


def _acls_of(client: Any, user: str) -> list[Any]:
    everything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    found, _ = client.describe_acls(ACLFilter(f"User:{user}", None, ACLOperation.ANY, ACLPermissionType.ANY, everything))
    return list(found)


def _wait_for_count(client: Any, user: str, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while (found := len(_acls_of(client, user))) != count:
        assert time.monotonic() < deadline, f"{user} has {found} ACLs, not {count}"
        time.sleep(0.05)
