"""`retouch bench`: measurements against their targets, reached by name so that `infra` imports none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.commands.frame import EXIT_CODES, Json, run

bench = typer.Typer(help="Measurements, each against its targets.", no_args_is_help=True)


@bench.callback()
def measurements() -> None:
    """Measurements, each against its targets."""  # a group stays one while it has a single command


@bench.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 every target met, 1 one was missed, or failed"))
def workers(
    out: Annotated[Path, typer.Option(help="Where workers.json, workers.png and the processes' logs go.")] = Path("bench-out"),
    quick: Annotated[bool, typer.Option("--quick", help="A little of everything, to see that it works; such figures say nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the worker runtime: throughput, added latency, a kill, a poison user. About six minutes, on a machine with nothing else to do."""
    import importlib

    command = importlib.import_module("bench.workers.command")
    run(lambda settings: int(command.run(settings, out, quick=quick, as_json=as_json)))
