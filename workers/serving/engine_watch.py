"""Watches a worker's engine: the process is not ready while a step of it does not end, and ends if that lasts or if the engine has ended.

Requests with a deadline get the base answer meanwhile, so the worker makes progress, and its own watchdog does not notice.
"""

from __future__ import annotations

import asyncio

from infra.process.health import HEALTH, Condition
from workers.serving.engines.engine import Engine, EngineDied

EVERY_S = 1.0
#: The process is not ready after this share of the time after which it ends.
NOT_READY_AFTER = 0.25


async def watch_engine(engine: Engine, stall_timeout_s: float) -> None:
    """Runs until cancelled. Raises EngineDied if the engine has ended, or if one step takes longer than `stall_timeout_s`."""
    while True:
        try:
            stalled_s = engine.stalled_s
            if stalled_s > stall_timeout_s:
                raise EngineDied(f"the engine made no step for {stalled_s:.0f} s")
        except EngineDied as error:
            HEALTH.report(Condition.ENGINE, str(error))
            raise
        is_slow = stalled_s > NOT_READY_AFTER * stall_timeout_s
        HEALTH.report(Condition.ENGINE, f"the engine has made no step for {stalled_s:.0f} s" if is_slow else None)
        await asyncio.sleep(min(EVERY_S, NOT_READY_AFTER * stall_timeout_s))
