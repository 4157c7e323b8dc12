"""`python -m tests.support.reflection_member`: the reflection worker with an engine that fails. A file in its state directory turns a fault on:
`hangs` (a step does not return), `breaks` (a step raises an error).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from infra.process.lifecycle import run_process
from infra.settings import Settings
from workers.reflection.service import run as run_reflection
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.transformers_engine import TransformersBackend


def run(settings: Settings, stop: threading.Event) -> None:
    step = TransformersBackend.step

    def faulty(self: Any) -> Sequence[BackendCompletion]:
        while (settings.stack.dir / "hangs").exists():
            time.sleep(0.05)
        if (settings.stack.dir / "breaks").exists():
            raise RuntimeError("a kernel failed")
        return step(self)

    TransformersBackend.step = faulty  # type: ignore[method-assign]
    run_reflection(settings, stop)


if __name__ == "__main__":
    sys.exit(run_process("reflection-member", run))
