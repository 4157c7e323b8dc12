"""`retouch bench`: measurements against their targets, reached by name so that `infra` imports none of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run

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


@bench.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 every target met, 1 one was missed, or failed"))
def train(
    out: Annotated[Path, typer.Option(help="Where train.json, train.md and train.png go.")] = Path("bench-out"),
    quick: Annotated[bool, typer.Option("--quick", help="A little of everything, to see that it works; such figures say nothing.")] = False,
    minutes: Annotated[float, typer.Option(min=2, help="Of training, for each arm with RL; sets its number of steps.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the world and of training.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Arms at once, each a process with one thread.")] = 2,
    arms: Annotated[str, typer.Option(help="Some arms only, by name and comma; what they start from is added.")] = "",
    regime: Annotated[
        str, typer.Option(help="RL against the strongest SFT where trajectories are few, noisy or silent, or users drift: plain, few, noisy, drift, silent.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(exists=True, help="Free text of real authors instead of the persona world, as `retouch replay` reads it.")
    ] = None,
    parts: Annotated[str, typer.Option(help="Some of: arms, speed, collection.")] = "arms",
    as_json: Json = False,
) -> None:
    """Measure what learning is worth on users it never saw: every arm against the ceilings, with intervals. About half an hour on two cores."""
    import importlib

    command = importlib.import_module("bench.train.command")
    options = {"quick": quick, "minutes": minutes, "seed": seed, "jobs": jobs, "regime": regime or None, "data": data}
    run(lambda settings: int(command.run(settings, command.Options(out, arms=_names(arms), parts=_names(parts), **options), as_json)))


@bench.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 every target met, 1 one was missed, or failed"))
def promotion(
    out: Annotated[Path, typer.Option(help="Where promotion.json and promotion.png go.")] = Path("bench-out"),
    short: Annotated[bool, typer.Option("--short", help="A little of everything, to see that it works; such figures say little.")] = False,
    only: Annotated[str, typer.Option(help="Some scenarios only, by name and comma, as the report names them.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once; figures do not depend on it.")] = 2,
    as_json: Json = False,
) -> None:
    """Measure the promoter's verdicts on simulated canaries: equal versions, planted losses and gains, guardrails. About ten minutes on two cores."""
    import importlib

    command = importlib.import_module("bench.promotion.command")
    run(lambda settings: int(command.run(settings, out, short=short, jobs=jobs, only=_names(only), as_json=as_json)))


@bench.command(epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 every target met, 1 one was missed, or failed"))
def swap(
    out: Annotated[Path, typer.Option(help="Where swap.json and swap.png go.")] = Path("bench-out"),
    short: Annotated[bool, typer.Option("--short", help="A little of everything, to see that it works; such figures say little.")] = False,
    as_json: Json = False,
) -> None:
    """Measure hot swaps of the reflection engine under steady load: dropped, mixed and wrong answers, p99, event to first answer. About ten minutes."""
    import importlib

    command = importlib.import_module("bench.swap.command")
    run(lambda settings: int(command.run(settings, out, short=short, as_json=as_json)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
