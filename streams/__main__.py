"""`python -m streams`: history, retrieval and outcomes in one process. `python -m streams quality`: the figures of the answers given."""

from __future__ import annotations

import argparse
import importlib
import sys

from infra.process.lifecycle import run_process

#: Imported only when chosen: Faust and the embedder are for the first alone.
SERVICES = {"streams": "streams.service", "quality": "streams.quality.service"}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 1 for a failure, 2 for an impossible setting or argument."""
    parser = argparse.ArgumentParser(prog="python -m streams", description=__doc__)
    parser.add_argument("process", nargs="?", choices=SERVICES, default="streams")
    process = parser.parse_args(arguments).process
    return run_process(process, lambda settings, stop: importlib.import_module(SERVICES[process]).run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
