"""Compares the rights that a process needs with those that the broker grants its user (KIP-430), so that one text names all that are missing.

The broker says it of topics, and of groups that exist. The rights on a transactional id, and on a new group, show at the first use
(`infra.kafka.refusals`). A broker that does not say what it grants is not compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.kafka.named_clients import Admin
from infra.kafka.refusals import lacks
from infra.kafka.rights import PROCESSES, Resource, Right, process_rights
from infra.settings import Settings

log = logging.getLogger(__name__)


def require_rights(settings: Settings, process: str) -> None:
    """Raises CannotContinue if the broker does not grant this process a right that it needs, and AccessRefused if it refuses the user. Blocks.

    Does nothing for a plain-text connection, which has no user, for a process that is none of PROCESSES, and if the broker is away for a moment: the
    process's own clients try again.
    """
    if settings.kafka.security_protocol == "PLAINTEXT" or process not in PROCESSES:
        return
    try:
        with broker_errors(settings):
            client = admin(settings)
            try:
                missing = missing_rights(client, process_rights(settings, process))
            finally:
                client.close()
    except RetryLater as error:
        log.warning("the rights on the broker are not compared", extra={"reason": str(error)})
        return
    if missing:
        raise CannotContinue(f"the broker at {settings.bootstrap_servers()} does not let this process work: {lacks(settings.kafka, missing)}")


def missing_rights(client: Admin, needed: Iterable[Right]) -> list[Right]:
    """The needed rights that the broker does not grant."""
    required = [right for right in needed if not right.is_optional and not right.is_prefix]
    by_topic = client.granted_on_topics({right.name for right in required if right.resource is Resource.TOPIC})
    groups = {right.name for right in required if right.resource is Resource.GROUP}
    granted = {Resource.TOPIC: by_topic, Resource.GROUP: {group: client.granted_on_group(group) for group in groups}}
    return [right for right in required if (found := granted.get(right.resource, {}).get(right.name)) is not None and right.operation not in found]
