"""Addresses of proxies between the stack's processes and the broker or the base model. The lab cuts connections there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from infra.settings import Settings

#: The process that serves the base model: it listens at the real address.
BASE_ENDPOINT = "base-endpoint"


@dataclass(frozen=True)
class ProxyPorts:
    """Ports on which proxies listen on this host; 0: no proxy. The caller runs the proxies as long as the stack runs."""

    broker_port: int = 0
    base_port: int = 0

    def settings_for(self, process: str, settings: Settings) -> Settings:
        """`settings`, which hold the real addresses, with the proxies' addresses for one process."""
        changes: dict[str, Any] = {}
        if self.broker_port and settings.kafka.bootstrap_servers:
            changes["kafka"] = {"bootstrap_servers": f"{settings.stack.host}:{self.broker_port}"}
        if self.base_port and settings.base.url and process != BASE_ENDPOINT:
            path = urlsplit(settings.base.url).path
            changes["base"] = {"url": f"http://{settings.stack.host}:{self.base_port}{path}"}
        return settings.changed(**changes)
