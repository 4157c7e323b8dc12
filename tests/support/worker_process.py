"""Workers as processes, as deployed."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.settings import Settings
from tests.support.streams_process import running

#: The text of these tests' queries. No log may hold it.
USERS_TEXT = "a film"


@contextmanager
def process(settings: Settings, folder: Path, *module: str, base_url: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A ready `python -m MODULE...` with `more` in its environment, and a state directory of its own. It is killed at the end if it still runs."""
    own = settings.changed(stack={"dir": folder / f"{module[-1]}-{uuid.uuid4().hex[:6]}"})
    environment = {"OPENAI_BASE_URL": base_url, "RETOUCH_KAFKA__INSTANCE": "test", "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "6000"}
    with running(own, " ".join(module), **{**environment, **more}) as started:
        assert started.process
        yield started.process
        assert USERS_TEXT not in started.log(), "a user's text is in the log"
