"""`retouch sources check`: the options. `cli.sources_check` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

sources = typer.Typer(help="A platform's own topics, mapped by sources.toml.", no_args_is_help=True)


@sources.callback()
def _() -> None:
    """Keeps `check` a command of its own while it is the only one."""


@sources.command("check", epilog=EXIT_CODES.replace("1 failed", "1 a record does not map, or failed").replace("2 usage", "2 usage, a file that cannot be used"))
def check(
    file: Annotated[Path | None, typer.Argument(help="The file of the sources. Default: sources.file.")] = None,
    sample: Annotated[Path | None, typer.Option(help="Map these records: JSON Lines, also as *.gz, each line a record's value.")] = None,
    topic: Annotated[str | None, typer.Option(metavar="TOPIC", help="The topic of the sample; without --sample, map the newest records of this topic.")] = None,
    newest: Annotated[int, typer.Option("--max", min=1, max=10_000, help="Number of the topic's newest records.")] = 20,
    as_json: Json = False,
) -> None:
    """Check the file, and as a dry run map sample records, or the newest of a topic. Nothing is written. The messages shown hold users' texts."""
    from cli.sources_check import check

    run_command(lambda settings: check(settings, file, sample, topic, newest, as_json))
