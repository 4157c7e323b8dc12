"""One worker process: `python -m workers base|reflection|teacher`."""

from __future__ import annotations

import argparse
import importlib
import sys

from infra.process.lifecycle import run_process

#: Imported only when chosen: the reflection worker alone needs an engine.
SERVICES = {
    "base": ("workers.base.service", "queries to drafts, by the base model's endpoint"),
    "reflection": ("workers.reflection.service", "contexts to responses, by the reflection model"),
    "teacher": ("workers.teacher.service", "outcomes to trajectories, by a teacher"),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 1 for a failure, 2 for an impossible setting or argument."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    choices = parser.add_subparsers(dest="worker", required=True, metavar="WORKER")
    for name, (_, meaning) in SERVICES.items():
        choices.add_parser(name, help=meaning, description=meaning)
    worker = parser.parse_args(arguments).worker
    return run_process(f"workers {worker}", lambda settings, stop: importlib.import_module(SERVICES[worker][0]).run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
