"""`retouch lab chaos`: prepares the settings, runs the experiment, checks the result, and writes the report."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import infra.local.fresh_state
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings
from infra.settings.stream import IndexSettings, KafkaSettings
from lab.chaos import picture
from lab.chaos.checker import Disturbance, check
from lab.chaos.experiment import BOUND_S, ChaosOptions, Experiment
from lab.chaos.plan import draw_plan
from lab.chaos.report import compile_report, lines
from lab.chaos.run import ChaosExperiment
from lab.cluster.cluster import of_no_broker

REPORT, PICTURE = "report.json", "chaos.png"

fresh_state = partial(infra.local.fresh_state.fresh_state, command="retouch lab chaos", run="run")


def run(settings: Settings, *, minutes: float, seed: int, out: Path | None = None, ordered: bool = False, as_json: bool = False) -> int:
    """Blocks for the start of the stack, the minutes of load, and the recovery. Call it from the main thread.

    The run starts its own broker and base model, not the configured ones. Its state directory is below `out`, which is kept, or temporary.
    Exit codes: 0 no anomaly; 1 anomalies, or the system did not recover. Raises CannotContinue if the stack does not start.
    """
    with folder_of(out) as folder:
        return print_report(experiment(settings, folder, minutes=minutes, seed=seed, ordered=ordered), as_json)


def print_report(report: dict[str, Any], as_json: bool) -> int:
    """Returns the exit code."""
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report)) + "\n")
    return OK if report["valid"] else FAILED


def experiment(settings: Settings, folder: Path, *, minutes: float, seed: int, ordered: bool = False, options: ChaosOptions | None = None) -> dict[str, Any]:
    """One run. Writes the report, the picture, the sent and the seen records into `folder`, and returns the report."""
    for name in (REPORT, PICTURE):
        output_files.check_writable(folder / name)
    settings = own_settings(settings, fresh_state(folder))
    plan = draw_plan(seed, minutes * 60, settings.kafka.session_timeout_ms / 1000)
    return judged(ChaosExperiment(settings, plan, folder, options or ChaosOptions(log_progress=log_progress)), folder, ordered=ordered)


def judged(experiment: Experiment, folder: Path, *, ordered: bool) -> dict[str, Any]:
    """Run the experiment, check it, and write report and picture. Returns the report."""
    evidence, replicas = experiment.run(), experiment.replicas()
    verdict = check(
        evidence.sent,
        evidence.seen,
        next(iter(replicas.values())),
        healed_s=evidence.healed_s,
        bound_s=BOUND_S,
        ordered=ordered,
        disturbances=[Disturbance(phase.began_s, phase.healed_s) for phase in evidence.phases],
        replicas=replicas,
        explained=evidence.explained,
    )
    report = compile_report(evidence, verdict, BOUND_S)
    output_files.write(folder / REPORT, json.dumps(report, indent=1) + "\n")
    picture.draw_picture(evidence, folder / PICTURE)
    return report


def own_settings(settings: Settings, state: Path) -> Settings:
    """The given settings without configured addresses, credentials and prefixes, and with the run's state directory."""
    stack = {"dir": state, "broker_port": 0}
    kafka, base, registry = KafkaSettings(**of_no_broker(settings)), {"url": None}, {"tracking_uri": None}
    return settings.changed(kafka=kafka, base=base, index=IndexSettings(), registry=registry, stack=stack)


@contextmanager
def folder_of(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="retouch-chaos-") as temporary:
        yield Path(temporary)


def log_progress(line: str) -> None:
    sys.stderr.write(f"chaos: {line}\n")
