"""`retouch`: all commands in one application. A command imports what it calls when it runs, so that `--help` is quick."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cli.bench_commands import bench
from cli.config_commands import config
from cli.dlq_commands import dlq
from cli.domains_commands import domains
from cli.index_commands import index
from cli.lab_commands import lab
from cli.models_commands import models
from cli.schemas_commands import schemas
from cli.sources_commands import sources
from cli.stack_commands import stack
from cli.strategies_commands import StrategyName, strategies
from cli.topics_commands import topics
from cli.train_commands import train
from infra.process import terminal_logs
from infra.process.command_output import EXIT_CODES, INTERRUPTED, Json, run_command

app = typer.Typer(
    name="retouch",
    help="Personalizes the answers of any language model, and keeps learning from what users do.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(stack)
app.add_typer(models, name="models")
app.add_typer(strategies, name="strategies")
app.add_typer(domains, name="domains")
app.add_typer(topics, name="topics")
app.add_typer(schemas, name="schemas")
app.add_typer(config, name="config")
app.add_typer(sources, name="sources")
app.add_typer(dlq, name="dlq")
app.add_typer(index, name="index")
app.add_typer(lab, name="lab")
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")


class DataFormat(StrEnum):
    """The formats that `retouch replay` reads."""

    AUTO = "auto"
    LAMP = "lamp"
    EVENTS = "events"  # JSON Lines of our own messages
    ARXIV = "arxiv"
    HUFFPOST = "huffpost"
    MOVIELENS = "movielens"
    GOQA = "goqa"
    STACKEXCHANGE = "stackexchange"


@app.command(epilog=EXIT_CODES)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path("demo-report"),
    short: Annotated[bool, typer.Option("--short", help="A smaller run, for tests.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the simulated users.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the whole closed loop on this machine and report the measurements."""
    from bench.demo import command

    run_command(lambda settings: command.run(settings, out, short, seed, as_json))


@app.command(epilog=EXIT_CODES.replace("1 failed", "1 failed, or an answer or an interaction is missing"))
def replay(
    path: Annotated[Path, typer.Argument(help="A LaMP folder, a JSON Lines file, or a folder of one of the other formats.")],
    format: Annotated[DataFormat, typer.Option(help="Format of PATH.")] = DataFormat.AUTO,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of users. Default: all.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Number of each user's latest entries that become questions. Default: 3.")] = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="How to personalize the answers. Default: the deployment's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file too.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write the answers to this folder, as files for `retouch evaluate`.")] = None,
    as_json: Json = False,
) -> None:
    """Stream a data set through the running stack and report per-user metrics."""
    from infra.local import running_settings
    from schemas.strategies import Strategy
    from traffic.replay import ReplayOptions
    from traffic.replay import run as stream

    chosen = Strategy(strategy.value) if strategy else None
    options = ReplayOptions(format.value, limit, last, out, as_json, strategy=chosen, predictions=predictions)
    run_command(lambda settings: stream(running_settings(settings), path, options))


@app.command(epilog=EXIT_CODES.replace("2 usage", "2 usage, a malformed file, ids that differ,"))
def evaluate(
    task: Annotated[str, typer.Option(help="LaMP_2, LaMP_3, LaMP_4, LaMP_5, LaMP_7 or GOQA; LaMP-2 is LaMP_2.")],
    golds: Annotated[Path, typer.Option(help="LaMP's *_outputs.json.")],
    predictions: Annotated[Path, typer.Option(help="The answers in the same form, also under the key `golds`.")],
    as_json: Json = False,
) -> None:
    """Compute LaMP's official metrics of a file of predictions."""
    from cli.evaluate import evaluate

    run_command(lambda settings: evaluate(task, golds, predictions, as_json))


@app.command(epilog=EXIT_CODES.replace("1 failed", "1 no response in time, or failed"))
def ask(
    text: Annotated[str, typer.Argument(help="The task's input: a description, a review, an abstract.")],
    user: Annotated[str, typer.Option(help="The user who asks.")],
    domain: Annotated[str, typer.Option(help="The platform's name for this kind of task.")] = "general",
    option: Annotated[list[str] | None, typer.Option(help="An allowed answer; repeat it. None: those of the domain, or free text.")] = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="How to personalize. Default: the deployment's.")] = None,
    after: Annotated[str | None, typer.Option(help="topic/partition/offset of an interaction of the user: the search waits until it is indexed.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the response.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Ask one query; print the answer and its provenance."""
    from cli.ask import ask

    run_command(lambda settings: ask(settings, user, text, domain, tuple(option or ()), strategy.value if strategy else None, timeout, as_json, after))


@app.command(epilog=EXIT_CODES)
def profile(
    user: Annotated[str, typer.Option(help="The user whose profile is shown.")],
    domain: Annotated[str, typer.Option(help="The platform's name for this kind of task.")] = "general",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the streams process.")] = 20.0,
    as_json: Json = False,
) -> None:
    """Show what is written about a user: the newest summary (PAG), and factors with their statistics (RPM)."""
    from cli.profile import profile

    run_command(lambda settings: profile(settings, user, domain, timeout, as_json))


def main() -> None:
    """The entry point. SIGTERM raises SystemExit, so that a stack inside this process is stopped in order."""
    signal.signal(signal.SIGTERM, _terminate)
    terminal_logs.configure()
    try:
        app()
    except KeyboardInterrupt:  # while a module was imported
        sys.exit(INTERRUPTED)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
