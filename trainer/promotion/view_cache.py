"""One look at the desk for all who look: a page open in a hundred browsers costs the promoter no more than one."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from typing import Any

from infra.errors import RetryLater
from schemas.promotion import VersionState

FRESH_S, WITHIN_S = 0.5, 10.0
#: With many versions a look costs more, and is kept for longer: one that took a time is good for so many times that, at most MOST_S.
WORTH, MOST_S = 4, 5.0
#: A page shows so many versions, the newest; besides them who serves, who is tried, and so many who served last and may again, however old.
SHOWN, FORMER = 60, 5


class ViewCache:
    """What `look` returns as JSON: asked for once by all who wait, and kept for FRESH_S or longer."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look
        self._made, self._until = b"", -math.inf
        self._making: asyncio.Task[bytes] | None = None

    def forget(self) -> None:
        """What was made, or is being made, is out of date."""
        self._until, self._making = -math.inf, None

    async def text(self) -> bytes:
        """Raises RetryLater where the desk does not answer in time."""
        if time.monotonic() < self._until:
            return self._made
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make())
        try:
            return await asyncio.wait_for(asyncio.shield(self._making), WITHIN_S)
        except TimeoutError:
            raise RetryLater(f"the registry did not answer within {WITHIN_S:.0f} s") from None

    async def _make(self) -> bytes:
        begun = time.monotonic()
        made = await asyncio.to_thread(self._dumped)
        if self._making is asyncio.current_task():
            now = time.monotonic()
            self._made, self._until = made, now + max(FRESH_S, min(MOST_S, WORTH * (now - begun)))
        return made

    def _dumped(self) -> bytes:
        """Not on the server's own thread: with many versions this takes a second, in which nobody else would be answered."""
        return json.dumps(finite(self._look()), allow_nan=False).encode()


def brief(view: dict[str, Any]) -> dict[str, Any]:
    """What a page needs every second: it must not grow with every version ever trained. Evidence is that of the newest transitions alone."""
    versions = view["versions"]
    former = [version["version"] for version in versions if version["state"] == VersionState.RETIRED][-FORMER:]
    kept = {view["champion"], view["challenger"], *former, *(version["version"] for version in versions[-SHOWN:])}
    return view | {"versions": [_brief(version) for version in versions if version["version"] in kept]}


def _brief(version: dict[str, Any]) -> dict[str, Any]:
    kept = ("version", "digest", "parent", "created_at", "state", "aliases")
    steps = [{name: step[name] for name in ("seq", "before", "after", "at", "reason")} for step in version["transitions"]]
    return {name: version[name] for name in kept} | {"transitions": steps}


def finite(value: Any) -> Any:
    """JSON has no infinity: the interval of a mean that is not known yet has none as its end."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
