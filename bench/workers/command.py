"""`retouch bench workers`: all figures of the worker runtime in one run, against their targets.

The run has a broker of its own in a temporary directory; `OUT` gets `workers.json`, `workers.png` and the processes' logs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.targets import Target
from bench.workers import latency, picture, poison, throughput
from bench.workers.plan import FULL, QUICK, WORKERS, WorkersPlan
from bench.workers.targets import targets
from bench.workers.testbed import Testbed, WorkerKind, testbed
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings

KIND = "retouch.bench-workers.v1"
REPORT, PICTURE = "workers.json", "workers.png"
#: What two workers carry counts as all that was asked for up to this share.
CARRIES = 0.97


def run(settings: Settings, out: Path, *, quick: bool = False, as_json: bool = False) -> int:
    """Blocks for minutes; call it from the main thread. Exit codes: 0 every target met, 1 one was missed.

    Raises CannotContinue where something failed, before anything starts when `out` cannot be written.
    """
    for name in (REPORT, PICTURE):
        output_files.check_writable(out / name)
    report = measure(settings, QUICK if quick else FULL, out / "logs")
    output_files.write(out / REPORT, json.dumps(report, indent=1) + "\n")
    picture.draw(report, out / PICTURE)
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report, out)) + "\n")
    return OK if report["ok"] else FAILED


def measure(settings: Settings, plan: WorkersPlan, logs: Path) -> dict[str, Any]:
    """The whole report."""
    began, load_before = time.monotonic(), os.getloadavg()[0]
    shutil.rmtree(logs, ignore_errors=True)
    head = {
        "kind": KIND,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": round(load_before, 2),
        "machine": machine.describe().model_dump(),
        "versions": {name: found for name, found in machine.versions().items() if name in ("retouch", "python", "kafka", "java", "kafka-python", "pydantic")},
        "plan": asdict(plan),
        "settings": settings.workers.model_dump(mode="json") | {"session_timeout_ms": settings.kafka.session_timeout_ms},
    }
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as state, testbed(settings, Path(state), logs.resolve()) as place:
        figures = _figures(place, plan)
    judged = targets(figures)
    verdict = {"targets": [target.to_json() for target in judged], "ok": all(target.met for target in judged)}
    return head | figures | verdict | {"seconds": round(time.monotonic() - began, 1)}


def _figures(place: Testbed, plan: WorkersPlan) -> dict[str, Any]:
    with _telling("backlog"):
        throughput.prepare(place, plan)
    arms = [_told(kind.name, lambda kind=kind: throughput.measure(place, kind, plan)) for kind in throughput.arms(plan)]
    both = WorkerKind("eos-two-workers", throughput.BACKLOG, plan.latency_in_flight)
    capacity = _told(both.name, lambda: throughput.measure(place, both, plan, count=WORKERS, seconds=plan.capacity_s))
    wanted = plan.load_share * plan.ideal_two_per_s
    runs = [_told("latency", lambda: latency.added(place, "latency", wanted, plan))]
    carried = plan.load_share * capacity["per_s"]
    if carried < CARRIES * wanted:
        runs.append(_told("latency-carried", lambda: latency.added(place, "latency-carried", carried, plan)))
    kill = _told("kill", lambda: latency.killed(place, wanted, plan))
    troubled = _told("poison", lambda: poison.measure(place, plan.poison_share * plan.ideal_two_per_s, plan))
    return {"throughput": arms, "capacity": capacity, "latency": runs, "kill": kill, "poison": troubled}


def lines(report: dict[str, Any], out: Path) -> list[str]:
    """For a person."""
    calm = f"load average {report['load_average_before']} before the run"
    arms = [f"{arm['arm']}: {arm['per_s']:.0f}/s, {arm['worker_cpu_ms_per_record']} ms of a worker's CPU a record" for arm in report["throughput"]]
    judged = [Target.of(one).line() for one in report["targets"]]
    return [*arms, "", *judged, "", f"{report['machine']['cores']} cores, {calm}, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}"]


def _told(name: str, body: Any) -> Any:
    with _telling(name):
        return body()


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """One line a part, with its time, on standard error."""
    began = time.monotonic()
    yield
    sys.stderr.write(f"bench workers: {name} took {time.monotonic() - began:.1f} s\n")
    sys.stderr.flush()
