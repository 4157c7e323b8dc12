"""The stack as a process of its own, as `retouch up` starts it: `python -m infra.stack [--trainer]`. SIGTERM stops it in order, twice at once."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import suppress

from infra.lifecycle import run_process
from infra.settings import Settings
from infra.stack import Stack


def serve(settings: Settings, stop: threading.Event) -> None:
    """Until a signal, or until the stack fails. A signal must also interrupt the start, hence an exception and not `stop`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Stack(settings, trainer="--trainer" in sys.argv[1:]) as stack:
        while True:
            stack.check()
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(run_process("stack", serve))
