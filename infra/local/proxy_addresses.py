"""Where the stack's processes go instead of straight to the broker and the base model: through somebody's proxies on this host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from infra.settings import Settings

#: It serves the base model itself and listens at the true address.
SERVES_BASE = "base-endpoint"


@dataclass(frozen=True)
class Detour:
    """Ports on which proxies listen; 0: no proxy. Whoever gives them runs the proxies for as long as the stack."""

    broker_port: int = 0
    base_port: int = 0

    def of(self, settings: Settings, process: str) -> Settings:
        """The settings for one process, `settings` being the true addresses."""
        changes: dict[str, Any] = {}
        if self.broker_port and settings.kafka.bootstrap_servers:
            changes["kafka"] = settings.kafka.model_copy(update={"bootstrap_servers": f"{settings.stack.host}:{self.broker_port}"})
        if self.base_port and settings.base.url and process != SERVES_BASE:
            path = urlsplit(settings.base.url).path
            changes["base"] = settings.base.model_copy(update={"url": f"http://{settings.stack.host}:{self.base_port}{path}"})
        return settings.model_copy(update=changes)
