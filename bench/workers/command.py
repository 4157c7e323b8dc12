"""`retouch bench workers`: measures the worker runtime against its targets.

The run starts its own broker in a temporary directory. `OUT` gets `workers.json`, `workers.png` and the processes' logs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench import reporting
from bench.workers import latency, picture, poison, throughput
from bench.workers.bench_stack import BenchStack, bench_stack
from bench.workers.plan import FULL, QUICK, WORKERS, WorkersPlan
from bench.workers.process import WorkerKind
from bench.workers.targets import targets
from infra.settings import Settings

KIND = "retouch.bench-workers.v1"
REPORT, PICTURE = "workers.json", "workers.png"
#: Two workers reach the target rate if their capacity allows this share of it.
REACHED_SHARE = 0.97


def run(settings: Settings, out: Path, *, quick: bool = False, as_json: bool = False) -> int:
    """Blocks for minutes; call it from the main thread. Exit codes: 0 every target met, 1 one was missed.

    Raises CannotContinue if a step fails, and before the start if `out` cannot be written.
    """
    reporting.check_writable(out, REPORT, PICTURE)
    report = measure(settings, QUICK if quick else FULL, out / "logs")
    picture.draw(report, out / PICTURE)
    return reporting.publish(report, out / REPORT, "\n".join(lines(report, out)), as_json)


def measure(settings: Settings, plan: WorkersPlan, logs: Path) -> dict[str, Any]:
    """The whole report."""
    began = time.monotonic()
    shutil.rmtree(logs, ignore_errors=True)
    head = reporting.report_head(KIND) | {
        "versions": reporting.package_versions("retouch", "python", "kafka", "java", "kafka-python", "pydantic"),
        "plan": asdict(plan),
        "settings": settings.workers.model_dump(mode="json") | {"session_timeout_ms": settings.kafka.session_timeout_ms},
    }
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as state, bench_stack(settings, Path(state), logs.resolve()) as bed:
        figures = _figures(bed, plan)
    return head | figures | reporting.verdict(targets(figures)) | {"seconds": round(time.monotonic() - began, 1)}


def _figures(bed: BenchStack, plan: WorkersPlan) -> dict[str, Any]:
    _timed("backlog", lambda: throughput.prepare(bed, plan))
    arms = [_timed(kind.name, partial(throughput.measure, bed, kind, plan)) for kind in throughput.arms(plan)]
    both = WorkerKind("eos-two-workers", throughput.BACKLOG, plan.latency_in_flight)
    capacity = _timed(both.name, lambda: throughput.measure(bed, both, plan, count=WORKERS, seconds=plan.capacity_s))
    target_rate = plan.load_share * plan.ideal_two_per_s
    runs = [_timed("latency", lambda: latency.added(bed, "latency", target_rate, plan))]
    reachable_rate = plan.load_share * capacity["per_s"]
    if reachable_rate < REACHED_SHARE * target_rate:
        runs.append(_timed("latency-carried", lambda: latency.added(bed, "latency-carried", reachable_rate, plan)))
    kill = _timed("kill", lambda: latency.killed(bed, target_rate, plan))
    poisoned = _timed("poison", lambda: poison.measure(bed, plan.poison_share * plan.ideal_two_per_s, plan))
    return {"throughput": arms, "capacity": capacity, "latency": runs, "kill": kill, "poison": poisoned}


def lines(report: dict[str, Any], out: Path) -> list[str]:
    """The report as text."""
    load = f"load average {report['load_average_before']} before the run"
    arms = [f"{arm['arm']}: {arm['per_s']:.0f}/s, {arm['worker_cpu_ms_per_record']} ms of a worker's CPU a record" for arm in report["throughput"]]
    return [
        *arms,
        "",
        *reporting.target_lines(report),
        "",
        f"{report['machine']['cores']} cores, {load}, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}",
    ]


_timed = partial(reporting.timed, "workers")
