"""`retouch`: the commands and their options. What they do lives where it belongs and is imported when a command runs, so `--help` is quick."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cli.bench_commands import bench
from cli.dlq_commands import dlq
from cli.lab_commands import lab
from cli.models_commands import models
from cli.train_commands import train
from infra.process.command_output import EXIT_CODES, INTERRUPTED, Json, run

app = typer.Typer(
    name="retouch",
    help="Personalizes the answers of any language model, and keeps learning from what users do.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
topics = typer.Typer(help="The topics on the broker.", no_args_is_help=True)
config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(topics, name="topics")
app.add_typer(config, name="config")
app.add_typer(dlq, name="dlq")
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")


class DataFormat(StrEnum):
    """What `retouch replay` reads."""

    AUTO = "auto"
    LAMP = "lamp"
    EVENTS = "events"  # JSON Lines of our own messages
    ARXIV = "arxiv"
    HUFFPOST = "huffpost"
    MOVIELENS = "movielens"
    STACKEXCHANGE = "stackexchange"


class AskStrategy(StrEnum):
    """`schemas.queries.Strategy`, without importing the messages for `--help`; a test holds the two together."""

    RPO = "rpo"
    ZERO_SHOT = "zero_shot"


@app.command(epilog=EXIT_CODES)
def demo(
    out: Annotated[Path, typer.Option(help="Where report.json and report.html go.")] = Path("demo-report"),
    short: Annotated[bool, typer.Option("--short", help="Less of everything: for tests.")] = False,
    seed: Annotated[int, typer.Option(help="Of the simulated users.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the whole closed loop on this machine and report what was measured."""
    from cli import stream_work

    run(lambda settings: stream_work.demo(settings, out, short, seed, as_json))


@app.command(epilog=EXIT_CODES)
def up(
    trainer: Annotated[bool, typer.Option(help="Run the trainer's service too.")] = True,
    as_json: Json = False,
) -> None:
    """Start the local stack and keep it running. Returns when everything serves."""
    from cli import background

    run(lambda settings: background.up(settings, trainer, as_json))


@app.command(epilog=EXIT_CODES.replace("1 failed", "1 not running, not ready, or failed"))
def status(as_json: Json = False) -> None:
    """Show the local stack's processes and addresses."""
    from cli import background

    run(lambda settings: background.status(settings, as_json))


@app.command(epilog=EXIT_CODES)
def down(as_json: Json = False) -> None:
    """Stop the local stack. Its data stays; where none runs there is nothing to do."""
    from cli import background

    run(lambda settings: background.down(settings, as_json))


@app.command(epilog=EXIT_CODES.replace("1 failed", "1 failed or not everything answered"))
def replay(
    path: Annotated[Path, typer.Argument(help="A LaMP folder, a JSON Lines file, or a folder of one of the other formats.")],
    format: Annotated[DataFormat, typer.Option(help="What PATH holds.")] = DataFormat.AUTO,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many users.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Each user's latest so many entries are questions. Default: 3.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file too.")] = None,
    as_json: Json = False,
) -> None:
    """Stream a data set through the running stack and report per-user metrics."""
    from cli import stream_work

    run(lambda settings: stream_work.replay(settings, path, format.value, limit, last, out, as_json))


@app.command(epilog=EXIT_CODES.replace("1 failed", "1 no response in time, or failed"))
def ask(
    text: Annotated[str, typer.Argument(help="The task's input: a description, a review, an abstract.")],
    user: Annotated[str, typer.Option(help="Who asks.")],
    domain: Annotated[str, typer.Option(help="The platform's name for this kind of task.")] = "general",
    option: Annotated[list[str] | None, typer.Option(help="An allowed answer; repeat it. None: free text.")] = None,
    strategy: Annotated[AskStrategy | None, typer.Option(help="How to personalize; otherwise the deployment's default.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the response.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Ask one query; print the answer and what it was made from."""
    from cli import stream_work

    run(lambda settings: stream_work.ask(settings, user, text, domain, tuple(option or ()), strategy.value if strategy else None, timeout, as_json))


@topics.command("apply", epilog=EXIT_CODES)
def apply_topics(as_json: Json = False) -> None:
    """Create missing topics and raise limits; nothing is ever taken away."""
    from cli import topics_commands

    run(lambda settings: topics_commands.apply_topics(settings, as_json))


@topics.command("describe", epilog=EXIT_CODES.replace("0 ok, 1 failed", "0 all as declared, 1 something differs or failed"))
def describe_topics(as_json: Json = False) -> None:
    """Show declared against actual."""
    from cli import topics_commands

    run(lambda settings: topics_commands.describe_topics(settings, as_json))


@config.command("check", epilog=EXIT_CODES)
def check_config(as_json: Json = False) -> None:
    """Check every setting; an impossible one is named with what would be right."""
    from cli import config_commands

    run(lambda settings: config_commands.check(settings, as_json))


@config.command("print", epilog=EXIT_CODES)
def print_config(as_json: Json = False) -> None:
    """Show every setting, its value and its source. Secrets are hidden."""
    from cli import config_commands

    run(lambda settings: config_commands.show_all(settings, as_json))


def main() -> None:
    """The entry point. SIGTERM unwinds like Ctrl-C, so that a stack inside this process is stopped in order."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except KeyboardInterrupt:  # while a module was imported
        sys.exit(INTERRUPTED)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
