"""Finds out why the streams process has no group coordinator. aiokafka retries a refused login for ever, and only logs it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from infra.errors import reason_of
from infra.kafka.clients import admin
from infra.kafka.connection_failures import AccessRefused
from infra.settings import Settings

log = logging.getLogger(__name__)

#: How long the group may lack its coordinator before another client tries to connect, and the pause between two attempts.
AFTER_S, EVERY_S = 2.0, 10.0


class AccessCheck:
    """Call `follow` often, on the event loop. `on_refusal` gets the refusal; an absence is logged when it begins."""

    def __init__(self, settings: Settings, on_refusal: Callable[[AccessRefused], None]) -> None:
        self._settings, self._on_refusal = settings, on_refusal
        self._problem_since: float | None = None
        self._checked_at = 0.0
        self._check: asyncio.Task[None] | None = None
        self._reason: str | None = None

    def follow(self, has_problem: bool) -> None:
        now = time.monotonic()
        if not has_problem:
            self._problem_since = self._reason = None
            return
        self._problem_since = self._problem_since or now
        is_running = self._check is not None and not self._check.done()
        if not is_running and now - self._problem_since > AFTER_S and now - self._checked_at > EVERY_S:
            self._check, self._checked_at = asyncio.create_task(self._connect()), now

    async def _connect(self) -> None:
        try:
            await asyncio.to_thread(lambda: admin(self._settings, "retouch-streams-access").close())
        except AccessRefused as refusal:
            self._on_refusal(refusal)
        except Exception as error:
            reason = reason_of(error)
            if reason != self._reason:
                log.warning("the broker is away", extra={"reason": reason})
            self._reason = reason
