"""`retouch bench`: measurements against their targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.process.command_output import EXIT_CODES, Json, run_command

bench = typer.Typer(help="Measurements, each against its targets.", no_args_is_help=True)
TARGETS = EXIT_CODES.replace("0 ok, 1 failed", "0 every target met, 1 one was missed, or failed")
Quick = Annotated[bool, typer.Option("--quick", help="A smaller run, to see that it works; its figures mean nothing.")]
Short = Annotated[bool, typer.Option("--short", help="A smaller run, to see that it works; its figures mean little.")]


@bench.command(epilog=TARGETS)
def workers(
    out: Annotated[Path, typer.Option(help="Folder for workers.json, workers.png and the processes' logs.")] = Path("bench-out"),
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Measure the worker runtime: throughput, added latency, a kill, a poison user. About six minutes, on an otherwise idle machine."""
    from bench.workers import command

    run_command(lambda settings: command.run(settings, out, quick=quick, as_json=as_json))


@bench.command(epilog=TARGETS)
def ingest(
    out: Annotated[Path, typer.Option(help="Folder for ingest.json, ingest.png and the processes' logs.")] = Path("bench-out"),
    quick: Quick = False,
    texts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="UTF-8 file with one text in each line. Default: generated ones of 35 tokens on average.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast history becomes retrievable, against the embedder alone and the index alone. About six minutes, on an otherwise idle machine."""
    from bench.ingest import command

    options = command.IngestOptions(out, texts, quick=quick)
    run_command(lambda settings: command.run(settings, options, as_json=as_json))


@bench.command(epilog=TARGETS)
def query(
    out: Annotated[Path, typer.Option(help="Folder for query.json, query.png and the processes' logs.")] = Path("bench-out"),
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Measure searches of 300,000 items, draft to context beside streaming history, and the overhead of all hops. About ten minutes, on an idle machine."""
    from bench.query import command

    run_command(lambda settings: command.run(settings, out, quick=quick, as_json=as_json))


@bench.command(epilog=TARGETS)
def soak(
    out: Annotated[Path, typer.Option(help="Folder for soak.json, soak.png and the state directory.")] = Path("bench-out/soak"),
    minutes: Annotated[float, typer.Option(min=1, help="Minutes of steady load.")] = 30.0,
    quick: Quick = False,
    seed: Annotated[int, typer.Option(help="Seed of the simulated users and of the load.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the whole stack at 70 % of its capacity: memory, open files, lag and latency over time. Takes MINUTES and about four more."""
    from bench.soak import command

    options = command.SoakOptions(out, minutes, quick=quick, seed=seed)
    run_command(lambda settings: command.run(settings, options, as_json=as_json))


@bench.command(epilog=TARGETS)
def growth(
    out: Annotated[Path, typer.Option(help="Folder for growth.json, growth.png, the processes' logs, and the index during the run.")] = Path("bench-out"),
    items: Annotated[int, typer.Option(min=10_000, help="Items of the largest index; a hundredth and a tenth are measured too.")] = 1_000_000,
    as_json: Json = False,
) -> None:
    """Measure events, searches, memory and disk of the embedded index as it grows a hundredfold. About six minutes, on an otherwise idle machine."""
    from bench.growth import command

    run_command(lambda settings: command.run(settings, command.GrowthOptions(out, items), as_json=as_json))


@bench.command(epilog=TARGETS)
def train(
    out: Annotated[Path, typer.Option(help="Folder for train.json, train.md and train.png.")] = Path("bench-out"),
    quick: Quick = False,
    minutes: Annotated[float, typer.Option(min=2, help="Minutes of training for each arm with RL; sets its number of steps.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of the world and of training.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Number of arms at once, each a process with one thread.")] = 2,
    arms: Annotated[str, typer.Option(help="Only these arms, names separated by commas; the arms that they start from are added.")] = "",
    regime: Annotated[
        str, typer.Option(help="RL against the strongest SFT where trajectories are few, noisy or silent, or users drift: plain, few, noisy, drift, silent.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(exists=True, help="Free text of real authors instead of the persona world, in a format of `retouch replay`.")
    ] = None,
    parts: Annotated[str, typer.Option(help="Some of: arms, speed, collection.")] = "arms",
    as_json: Json = False,
) -> None:
    """Measure learning on held-out users: every arm against the ceilings, with intervals. About half an hour on two cores."""
    from bench.train import command

    options = command.TrainOptions(
        out, quick=quick, minutes=minutes, seed=seed, jobs=jobs, arms=_names(arms), regime=regime or None, data=data, parts=_names(parts)
    )
    run_command(lambda settings: command.run(settings, options, as_json))


@bench.command(epilog=TARGETS)
def promotion(
    out: Annotated[Path, typer.Option(help="Folder for promotion.json and promotion.png.")] = Path("bench-out"),
    short: Short = False,
    only: Annotated[str, typer.Option(help="Only these scenarios, names of the report separated by commas.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Number of processes at once; figures do not depend on it.")] = 2,
    as_json: Json = False,
) -> None:
    """Measure the promoter's verdicts on simulated canaries: equal versions, planted losses and gains, guardrails. About ten minutes on two cores."""
    from bench.promotion import command

    run_command(lambda settings: command.run(settings, out, short=short, jobs=jobs, only=_names(only), as_json=as_json))


@bench.command(epilog=TARGETS)
def swap(
    out: Annotated[Path, typer.Option(help="Folder for swap.json and swap.png.")] = Path("bench-out"),
    short: Short = False,
    as_json: Json = False,
) -> None:
    """Measure hot swaps of the reflection engine under steady load: dropped, mixed and wrong answers, p99, event to first answer. About ten minutes."""
    from bench.swap import command

    run_command(lambda settings: command.run(settings, out, short=short, as_json=as_json))


#: Help of `--max-tokens`.
BUDGET = (
    "Stop asking once all answers of this folder, with those to lessons and warming questions, took this many tokens, as the endpoints report them. "
    "Not counted: what the teacher, profiles and HYDRA's training ask."
)


@bench.command(epilog=TARGETS.replace("1 one was missed", "1 one was missed, an answer is missing"))
def quality(
    strategies: Annotated[
        str, typer.Option(help="`all`, `ablations`, `items`, or names STRATEGY[#K][@RETRIEVER][:VARIANT], by commas, such as rag,rpo,rpo:sft,rag@random.")
    ] = "all",
    data: Annotated[Path | None, typer.Option(exists=True, help="A data set in a format of `retouch replay`. Default: the persona world.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for quality.json, quality.md, quality.png, answers.jsonl and the state. The same command continues a run in it.")
    ] = Path("bench-out/quality"),
    against: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of another run with the same questions, for example with another model."),
    ] = None,
    users: Annotated[int | None, typer.Option(min=4, help="Only this many users.")] = None,
    lessons: Annotated[int | None, typer.Option(min=1, help="With --data: at most this many questions of training users.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="With --data: at most this many questions of held-out users.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="With --data: each user's latest entries that are questions.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help=BUDGET)] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the world, of training, and of the choice of questions.")] = 0,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Compare strategies: train on lessons, then ask held-out users' questions under every strategy. About a quarter of an hour with the tiny models."""
    from bench.quality import command
    from bench.quality.questions import Sizes
    from bench.quality.run import AskOptions

    ask = AskOptions(in_flight=in_flight, max_tokens=max_tokens)
    options = command.QualityOptions(out, strategies, data, against, Sizes(users, lessons, questions, last), seed, quick=quick, ask=ask)
    run_command(lambda settings: command.run(settings, options, as_json))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
