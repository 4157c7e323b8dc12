"""`retouch bench query`: how fast the user's history is found, alone, in the stream and beside streaming history, and what all hops of a question cost.

The run starts its own broker in a temporary directory. `OUT` gets `query.json`, `query.png` and the processes' logs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine, reporting
from bench.ingest import stream
from bench.query import drafts, picture, pipeline, searches, streams
from bench.query.plan import FULL, QUICK, QueryPlan
from bench.query.targets import causes, targets
from bench.workers.bench_stack import BenchStack, bench_stack
from infra.errors import BadSetting
from infra.settings import Settings

KIND = "retouch.bench-query.v1"
REPORT, PICTURE = "query.json", "query.png"


def run(settings: Settings, out: Path, *, quick: bool = False, as_json: bool = False) -> int:
    """Blocks for minutes; call it from the main thread. Exit codes: 0 every target met, 1 one was missed.

    Raises CannotContinue if a step fails, and before the start if `out` cannot be written; BadSetting for an index that is a server.
    """
    if settings.index.url:
        raise BadSetting("index.url (QDRANT_URL): must not be set; this command fills an embedded index of its own")
    reporting.check_writable(out, REPORT, PICTURE)
    report = measure(settings, QUICK if quick else FULL, out / "logs")
    picture.draw(report, out / PICTURE)
    return reporting.publish(report, out / REPORT, "\n".join(lines(report, out)), as_json)


def measure(settings: Settings, plan: QueryPlan, logs: Path) -> dict[str, Any]:
    """The whole report."""
    began = time.monotonic()
    shutil.rmtree(logs, ignore_errors=True)
    head = reporting.report_head(KIND) | {
        "versions": reporting.package_versions("retouch", "python", "kafka", "faust", "aiokafka", "kafka-python", "qdrant-edge"),
        "plan": asdict(plan),
        "points": plan.points,
        "cores": machine.cores(),
    }
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as state, bench_stack(settings, Path(state), logs.resolve()) as stack:
        figures = {"points": plan.points} | _figures(stack, plan)
    verdict = reporting.verdict(targets(figures))
    missed = [target["name"] for target in verdict["targets"] if not target["met"]]
    return head | figures | verdict | {"causes": causes(figures, missed), "seconds": round(time.monotonic() - began, 1)}


def _figures(stack: BenchStack, plan: QueryPlan) -> dict[str, Any]:
    filled = _timed("filling the index through the stream", lambda: drafts.fill(stack, plan))
    job = searches.SearchJob(streams.settings_of(stack).index_dir, plan.users, plan.first_searches, plan.searches)
    bare = _timed("the index alone", lambda: searches.measure(job, stack.settings.stack.dir, stack.logs))
    unloaded = _timed("restart and idle", lambda: drafts.restarted_and_idle(stack, plan))
    loaded = _timed("beside history", lambda: drafts.loaded(stack, plan))
    hops = _timed("pipeline", lambda: pipeline.arms(stack, plan))
    fill = stream.steady(filled, 0, plan.points) | {"timeline": stream.timeline(filled)}
    return {"fill": fill, "bare_index": bare, **unloaded, "loaded": loaded, "pipeline": hops}


def lines(report: dict[str, Any], out: Path) -> list[str]:
    """The report as text."""
    bare, history = report["bare_index"], report["loaded"]["history"]
    return [
        f"the index alone, {bare['points']} points: {_shown(bare['later_ms'])}; the first after opening {_shown(bare['first_ms'])}",
        *(
            f"{arm}: draft to context {_shown(report[arm]['context_ms'])}, search {_shown(report[arm]['retrieve_ms'])}"
            for arm in ("restarted", "idle", "loaded")
        ),
        f"history beside the drafts: {history['per_s']:.0f} events/s",
        *(f"pipeline, commits every {arm['commit_every_ms']} ms: overhead {_shown(arm['overhead_ms'])}" for arm in report["pipeline"]),
        *(f"  {hop}: {_shown(each)}" for hop, each in report["pipeline"][0]["hops_ms"].items()),
        "",
        *reporting.target_lines(report),
        *report["causes"],
        "",
        f"{report['cores']} cores, load average {report['load_average_before']} before the run, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}",
    ]


def _shown(spread: dict[str, float] | None) -> str:
    return f"p50 {spread['p50']:.1f}, p99 {spread['p99']:.1f} ms" if spread else "not measured"


_timed = partial(reporting.timed, "query")
