"""One worker process: `python -m workers base|strategies|profiles|reflection|teacher|sources`."""

from __future__ import annotations

import argparse
import sys
import threading

from infra.process.lifecycle import run_process
from infra.settings import Settings
from infra.telemetry.foreign_output import log_output_of_child


def _base(settings: Settings, stop: threading.Event) -> None:
    from workers.base.service import run

    run(settings, stop)


def _strategies(settings: Settings, stop: threading.Event) -> None:
    from workers.strategies.service import run

    run(settings, stop)


def _reflection(settings: Settings, stop: threading.Event) -> None:
    from workers.reflection.service import run

    run(settings, stop)


def _teacher(settings: Settings, stop: threading.Event) -> None:
    from workers.teacher.service import run

    run(settings, stop)


def _profiles(settings: Settings, stop: threading.Event) -> None:
    from workers.profiles.service import run

    run(settings, stop)


def _sources(settings: Settings, stop: threading.Event) -> None:
    from workers.sources.service import run

    run(settings, stop)


#: Each imports its own worker when it runs, because only the reflection worker needs an engine.
SERVICES = {
    "base": (_base, "queries to drafts, responses and lookups, by the base model's endpoint"),
    "strategies": (_strategies, "retrievals to responses, by the base model's endpoint"),
    "reflection": (_reflection, "contexts to responses, by the reflection model"),
    "profiles": (_profiles, "profile tasks to profile entries, by a template or an endpoint"),
    "sources": (_sources, "a platform's own topics to interactions, queries and feedback, by sources.toml"),
    "teacher": (_teacher, "outcomes to trajectories, by a teacher"),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 1 after a failure, 2 for an invalid setting or argument."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    choices = parser.add_subparsers(dest="worker", required=True, metavar="WORKER")
    for name, (_, help) in SERVICES.items():
        choices.add_parser(name, help=help, description=help)
    worker = parser.parse_args(arguments).worker
    return run_process(f"workers {worker}", SERVICES[worker][0])


if __name__ == "__mp_main__":  # in a process that vLLM spawns
    log_output_of_child()

if __name__ == "__main__":
    sys.exit(main())
