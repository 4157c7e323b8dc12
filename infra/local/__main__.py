"""The stack as one process, started by `retouch up`: `python -m infra.local [--trainer]`. SIGTERM stops it in order; a second one kills its processes."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress

from infra.local import Stack
from infra.process.lifecycle import mark_ready, run_process
from infra.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument("--trainer", action="store_true", help="with the trainer's service")
    flags = parser.parse_args()
    return run_process("stack", lambda settings, stop: serve(settings, flags.trainer))


def serve(settings: Settings, with_trainer: bool) -> None:
    """Serve until a signal arrives or the stack fails. Signals raise KeyboardInterrupt, because `stop` would not interrupt the start."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = Stack(settings, trainer=with_trainer)
    with suppress(KeyboardInterrupt):
        try:
            stack.launch()
            mark_ready(settings)
            stack.wait()
        finally:
            stack.stop()


if __name__ == "__main__":
    sys.exit(main())
