"""`retouch lab`: the laboratory of failures, reached by name so that `infra` imports none of it. Commands of its own belong here beside `chaos`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run

lab = typer.Typer(help="Failures on purpose, and a checker that trusts nobody.", no_args_is_help=True)


@lab.callback()
def laboratory() -> None:
    """Failures on purpose, and a checker that trusts nobody."""  # a group stays one while it has a single command


@lab.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 no anomaly, 1 anomalies or failed"))
def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="How long the load goes on; the stack's start and its healing come on top.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the plan of faults and of the load.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where the report, the picture, what was sent and seen, and the stack's state go; none: nothing is kept.")
    ] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="Answers out of a user's order are anomalies: for deployments that ask for order by key.")] = False,
    as_json: Json = False,
) -> None:
    """Run the local stack under load, kill, pause and cut off its parts, and count what was lost or answered twice."""
    import importlib

    command = importlib.import_module("lab.chaos.command")
    run(lambda settings: int(command.run(settings, minutes=minutes, seed=seed, out=out, ordered=ordered, as_json=as_json)))


@lab.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 no anomaly, 1 anomalies or failed"))
def simulate(
    seeds: Annotated[int, typer.Option(min=1, help="How many, one after the other from `--seed` on.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first.")] = 0,
    trace: Annotated[bool, typer.Option("--trace", help="Print every step of the first seed, and its verdict.")] = False,
    as_json: Json = False,
) -> None:
    """Run the worker runtime on an in-memory broker in virtual time, with faults at every step between poll and commit."""
    import importlib

    command = importlib.import_module("lab.simulate.command")
    run(lambda settings: int(command.run(first=seed, seeds=seeds, trace=trace, as_json=as_json)))


@lab.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 no anomaly, 1 anomalies or failed"))
def promotion(
    kills: Annotated[int, typer.Option(min=0, max=10_000, help="At boundaries between two writes; a hundred or so cover each once. 0: none.")] = 100,
    live: Annotated[
        int, typer.Option(min=0, max=10_000, help="On a running system, in turn of promoter, worker and registry; 51 cover each transition. 0: none.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the plan of live kills, and of what users ask.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write report.json to this folder too, and keep logs and registries there.")] = None,
    as_json: Json = False,
) -> None:
    """Kill promoters right before and after each of their writes, and processes of a running system at its transitions; compare with what goes unharmed."""
    import importlib

    command = importlib.import_module("lab.promotion.command")
    run(lambda settings: int(command.run(settings, kills=kills, live=live, seed=seed, out=out, as_json=as_json)))
