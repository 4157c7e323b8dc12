"""`python -m streams`: history, retrieval and outcomes in one process. `python -m streams quality`: quality figures of the answers given."""

from __future__ import annotations

import argparse
import sys
import threading

from infra.process.lifecycle import run_process
from infra.settings import Settings
from infra.telemetry.foreign_output import log_output_of_child


def _streams(settings: Settings, stop: threading.Event) -> None:
    from streams.service import run

    run(settings, stop)


def _quality(settings: Settings, stop: threading.Event) -> None:
    from streams.quality.service import run

    run(settings, stop)


#: Each service is imported when it runs, because only `streams` needs Faust and the embedder.
SERVICES = {"streams": _streams, "quality": _quality}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 1 for a failure, 2 for an impossible setting or argument."""
    parser = argparse.ArgumentParser(prog="python -m streams", description=__doc__)
    parser.add_argument("process", nargs="?", choices=SERVICES, default="streams")
    process = parser.parse_args(arguments).process
    return run_process(process, SERVICES[process])


if __name__ == "__mp_main__":  # in a process of `embedder.processes`
    log_output_of_child()

if __name__ == "__main__":
    sys.exit(main())
