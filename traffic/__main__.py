"""`python -m traffic`: simulate a platform, replay real data, or convert it to JSON Lines of events."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from infra.errors import CannotContinue, RetouchError
from infra.process.lifecycle import run_process
from infra.settings import Settings
from schemas.strategies import Strategy
from traffic import replay
from traffic.datasets.catalog import FORMATS, open_dataset
from traffic.datasets.files import shown
from traffic.datasets.steps import ReadCounts, to_lines
from traffic.plan import TrafficPlan
from traffic.platform import AskingLimits
from traffic.schedule import Pace
from traffic.simulation import Phase, PhaseOptions, play

log = logging.getLogger(__name__)

Body = Callable[[Settings, threading.Event], None]


class Unanswered(RetouchError):
    """Some questions got no answer, or some interactions are not on the topic. Report or summary have the numbers."""


class Stopped(RetouchError):
    """A signal came before the end."""


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 everything was sent and answered, or written; 1 it was not, or the system is away; 2 bad input."""
    arguments = _parser().parse_args(argv)
    bodies: dict[str, Callable[[argparse.Namespace], Body]] = {"simulate": _simulate, "replay": _replay, "convert": _convert}
    return run_process(f"traffic {arguments.command}", bodies[arguments.command](arguments))


def _simulate(given: argparse.Namespace) -> Body:
    def body(settings: Settings, stop: threading.Event) -> None:
        plan = TrafficPlan.read(given.plan, users=given.users, history=given.history, learn=given.learn, exam=given.exam, seed=given.seed, tenant=given.tenant)
        phase, pace = Phase(given.phase), Pace(given.rate)
        options = PhaseOptions(
            round=given.round,
            limits=AskingLimits(max_in_flight=given.in_flight, timeout_s=given.timeout_s, deadline_s=given.deadline_s),
            seconds=given.seconds,
            count=given.count,
            only=frozenset(given.only.split(",")) if given.only else frozenset(),
            settle=given.settle,
            truths=given.truths,
        )
        summary = play(settings, plan, phase, options, pace, stop)
        sys.stdout.write(json.dumps(summary) + "\n")
        if summary["lost"] or (summary["unsent"] and not stop.is_set()):
            raise Unanswered(f"{summary['lost']} of {summary['asked']} questions got no answer")

    return body


def _replay(given: argparse.Namespace) -> Body:
    def body(settings: Settings, stop: threading.Event) -> None:
        strategy = Strategy(given.strategy) if given.strategy else None
        options = replay.ReplayOptions(
            given.format, given.limit, given.last, given.out, given.json, given.timeout_s, strategy=strategy, predictions=given.predictions
        )
        if replay.run(settings, given.path, options, stop):
            raise Unanswered("some questions got no answer, or some interactions are not in the log; see the report")

    return body


def _convert(given: argparse.Namespace) -> Body:
    def body(settings: Settings, stop: threading.Event) -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends it
        counts = ReadCounts()
        dataset = open_dataset(given.path, given.format, given.last)
        try:
            for step in dataset.steps(settings.tenant, counts):
                if stop.is_set():
                    raise Stopped("stopped before the end of the data set")
                sys.stdout.buffer.writelines(f"{line}\n".encode() for line in to_lines(step))
            sys.stdout.buffer.flush()
        except OSError as error:
            raise CannotContinue(f"cannot write standard output: {error.strerror}") from None
        left_out = {"skipped": dict(counts.skipped), "shortened": counts.shortened, "not_read": list(map(shown, dataset.not_read))}
        if any(left_out.values()):
            log.warning("some of the data set is not in the output", extra=left_out)

    return body


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m traffic", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    simulate = commands.add_parser("simulate", help="play one phase of a persona world; prints a JSON summary")
    simulate.add_argument("phase", choices=list(map(str, Phase)))
    simulate.add_argument("--plan", type=Path, help="JSON file: tenant, seed, users, history, learn, exam, domains; the options below change it")
    for name in ("users", "history", "learn", "exam", "seed"):
        simulate.add_argument(f"--{name}", type=int)
    simulate.add_argument("--tenant")
    simulate.add_argument("--round", default="0", help="part of the queries' ids; default 0")
    simulate.add_argument("--truths", type=Path, help="append the ground truth of each question to this JSON Lines file")
    simulate.add_argument("--only", help="probe: these users alone, separated by commas")
    simulate.add_argument("--rate", type=_positive, help="maximum number of records per second; default: bounded only by --in-flight")
    simulate.add_argument("--seconds", type=_positive, help="steady, trial: duration; default: until SIGTERM")
    simulate.add_argument("--count", type=int, default=16, help="burst: number of questions at once; default 16")
    simulate.add_argument("--in-flight", type=int, default=32, help="maximum number of open questions; default 32")
    simulate.add_argument("--timeout-s", type=_positive, default=120.0, help="an answer later than this is lost; default 120")
    simulate.add_argument("--deadline-s", type=_positive, help="the queries' deadline; default none")
    simulate.add_argument("--settle", action="store_true", help="wait until the streams have handled everything sent")

    again = commands.add_parser("replay", help="stream a data set through the running system and report")
    again.add_argument("path", type=Path)
    again.add_argument("--format", default="auto", choices=["auto", *FORMATS])
    again.add_argument("--limit", type=_count, help="only this many users, the first ones")
    again.add_argument("--last", type=_count, help="number of each user's latest entries that are questions; default 3")
    again.add_argument("--strategy", choices=list(map(str, Strategy)), help="of the queries that name none; default: the deployment's")
    again.add_argument("--out", type=Path, help="write the report to this file, as JSON")
    again.add_argument("--predictions", type=Path, help="write the answers to this folder, as files for `retouch evaluate`")
    again.add_argument("--json", action="store_true", help="print JSON instead of a table")
    again.add_argument("--timeout-s", type=_positive, default=300.0, help="an answer later than this is lost; default 300")

    convert = commands.add_parser("convert", help="print a data set as JSON Lines of events")
    convert.add_argument("path", type=Path)
    convert.add_argument("--format", default="auto", choices=["auto", *FORMATS])
    convert.add_argument("--last", type=_count, help="number of each user's latest entries that are questions; default 3")
    return parser


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
