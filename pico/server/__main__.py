"""`python -m pico.server`: serves the tiny base model at `base.url`, as an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import sys

from infra.process.lifecycle import run_process
from infra.telemetry.foreign_output import log_output_of_child
from pico.server.service import run


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 1 after a failure, 2 for an invalid setting or argument."""
    argparse.ArgumentParser(prog="python -m pico.server", description=__doc__).parse_args(arguments)
    return run_process("base-endpoint", run)


if __name__ == "__mp_main__":  # in a process that vLLM spawns
    log_output_of_child()

if __name__ == "__main__":
    sys.exit(main())
