"""What a worker says of itself, and what ends a process whose loop hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from infra.telemetry.instruments import Counter, Gauge
from infra.telemetry.metrics import WORKER_COMMITS, WORKER_HELD, WORKER_IN_FLIGHT, WORKER_LAG, WORKER_METADATA_UNREADABLE, WORKER_OLDEST, WORKER_RECORDS
from tests.support.worker_harness import Script, Site, answer, for_ever, numbered, until
from workers.runtime.offsets import Position

ROOT = Path(__file__).parents[4]

HANGING = """
import asyncio, time
from infra.telemetry.json_logs import configure
from workers.runtime.watchdog import guarded_loop

async def handler():
    with guarded_loop({within_s}):
        time.sleep({seconds})

configure("INFO")
asyncio.run(handler())
"""


def total(metric: Counter | Gauge, **labels: str) -> float:
    """Of all series that have these labels."""
    return sum(value for series, value in metric.values().items() if labels.items() <= dict(series).items())


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_loop_that_hangs_ends_the_process_and_says_why() -> None:
    ended = run(HANGING.format(within_s=0.3, seconds=50))
    assert ended.returncode == 1
    assert "the worker's loop hangs" in ended.stderr


def test_a_loop_that_is_slow_for_a_moment_goes_on() -> None:
    assert run(HANGING.format(within_s=10, seconds=0.01)).returncode == 0


async def test_records_and_commits_are_counted_by_their_outcome() -> None:
    produced, committed = total(WORKER_RECORDS, outcome="produced"), total(WORKER_COMMITS, outcome="committed")
    site = Site()
    site.ask(*numbered(20))
    await until(site.worker(answer), lambda: site.answered().total() == 20)
    assert total(WORKER_RECORDS, outcome="produced") == produced + 20
    assert total(WORKER_COMMITS, outcome="committed") > committed


async def test_foreign_metadata_lag_and_what_is_in_hand_are_published_and_forgotten() -> None:
    for gauge in (WORKER_LAG, WORKER_HELD, WORKER_IN_FLIGHT, WORKER_OLDEST):
        gauge.forget()  # what workers of other tests said last
    unreadable = total(WORKER_METADATA_UNREADABLE)
    site = Site(partitions=1)
    site.ask(*numbered(2))
    site.commit(0, Position(0, "consumer-1"))
    worker = site.worker(Script(on1=for_ever), stall_timeout_s=4.0)  # it looks every second
    seen: list[tuple[float, float, float, float]] = []

    def published() -> bool:
        now = (total(WORKER_LAG), total(WORKER_HELD), total(WORKER_IN_FLIGHT), total(WORKER_OLDEST))
        if total(WORKER_LAG):
            seen.append(now)
        return bool(seen) and seen[-1][:3] == (1, 1, 1)  # a first look may come before the other one is answered

    await until(worker, published)
    assert total(WORKER_METADATA_UNREADABLE) == unreadable + 1
    assert total(WORKER_LAG) == 0, "partitions that are no longer ours have no lag"
