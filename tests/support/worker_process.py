"""Processes under test, as deployed: `python -m workers base` and others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.settings import Settings

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 180.0, 60.0
#: The text of these tests' queries. No log may hold it.
USERS_TEXT = "a film"


@contextmanager
def process(settings: Settings, folder: Path, *module: str, base_url: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A ready `python -m MODULE...` with `more` in its environment. It is killed at the end if it still runs."""
    number = uuid.uuid4().hex[:6]
    ready, log = folder / f"ready-{number}", folder / f"{module[-1]}-{number}.log"
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
        "OPENAI_BASE_URL": base_url,
        "RETOUCH_READY_FILE": str(ready),
        "RETOUCH_KAFKA__INSTANCE": "test",
        "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "6000",
        **more,
    }
    with log.open("wb") as out:
        running = subprocess.Popen([sys.executable, "-m", *module], cwd=ROOT, env=environment, stderr=out)
    try:
        deadline = time.monotonic() + START_S
        while not ready.exists():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield running
        assert USERS_TEXT not in log.read_text(), "a user's text is in the log"
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(STOP_S)
