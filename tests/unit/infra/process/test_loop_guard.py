"""Processes whose main loop hangs, or is slow for a moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

EVENT_LOOP = """
import asyncio, time
from infra.process.loop_guard import guarded_event_loop
from infra.telemetry.json_logs import configure

async def handler():
    with guarded_event_loop({timeout_s}, "the loop hangs"):
        time.sleep({seconds})

configure("INFO")
asyncio.run(handler())
"""

PLAIN_LOOP = """
import time
from infra.process.loop_guard import guarded
from infra.telemetry.json_logs import configure

configure("INFO")
with guarded({timeout_s}, "the loop hangs") as beat:
    beat()
    time.sleep({seconds})
"""


def run(script: str, *, timeout_s: float, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script.format(timeout_s=timeout_s, seconds=seconds)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", [EVENT_LOOP, PLAIN_LOOP], ids=["event loop", "plain loop"])
def test_a_loop_that_hangs_ends_the_process_with_a_reason(script: str) -> None:
    ended = run(script, timeout_s=0.3, seconds=50)
    assert ended.returncode == 1
    assert "the loop hangs" in ended.stderr


@pytest.mark.parametrize("script", [EVENT_LOOP, PLAIN_LOOP], ids=["event loop", "plain loop"])
def test_a_loop_that_is_slow_for_a_moment_continues(script: str) -> None:
    assert run(script, timeout_s=10, seconds=0.01).returncode == 0
