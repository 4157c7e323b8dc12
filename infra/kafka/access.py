"""Checks at the start of a process whether the broker refuses it, before it loads a model or starts an engine, which can take minutes."""

from __future__ import annotations

import logging

from kafka.errors import KafkaError

from infra.errors import reason_of
from infra.kafka.clients import admin
from infra.kafka.connection_failures import AccessRefused
from infra.settings import Settings

log = logging.getLogger(__name__)


def check_access(settings: Settings) -> None:
    """Connects once. Raises AccessRefused. Logs if no broker is reached: a process may start before its broker, and bounds that wait later."""
    try:
        admin(settings, "retouch-access").close()
    except AccessRefused:
        raise
    except KafkaError as error:
        log.warning("the broker is away", extra={"reason": reason_of(error)})
