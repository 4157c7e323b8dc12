"""`retouch bench soak`: the whole stack at 70 % of its capacity. Memory, open files, lag and latency over time, and whether they are flat.

Each run empties the state directory `OUT/state` and keeps it, with its logs, after the end. `OUT` gets `soak.json` and `soak.png`, also after an interruption.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import infra.local.fresh_state
from bench import reporting
from bench.own_stores import check_own_stores
from bench.soak import picture
from bench.soak.figures import answer_figures, answers_of, lag_figures, process_figures, timeline
from bench.soak.plan import FULL, QUICK
from bench.soak.run import SoakRun
from bench.soak.targets import targets
from infra.errors import RetouchError
from infra.process.lifecycle import FAILED, INTERRUPTED
from infra.settings import Settings
from schemas.topics import INTERACTIONS

KIND = "retouch.bench-soak.v1"
REPORT, PICTURE = "soak.json", "soak.png"


@dataclass(frozen=True)
class SoakOptions:
    out: Path
    minutes: float
    quick: bool = False
    seed: int = 0


def run(settings: Settings, options: SoakOptions, *, as_json: bool = False) -> int:
    """Blocks for `minutes` and some more; call it from the main thread. Exit codes: 0 every target met, 1 one was missed, 130 interrupted by Ctrl-C.

    After Ctrl-C, SIGTERM or a failed process the report holds what was measured, if the soak had begun. Raises BadSetting for stores that are not its own,
    CannotContinue if `out` cannot be written, before the start; RetouchError if a step before the soak fails; SystemExit after SIGTERM.
    """
    check_own_stores(settings)
    reporting.check_writable(options.out, REPORT, PICTURE)
    state = infra.local.fresh_state.fresh_state(options.out, command="retouch bench soak", run="soak")
    plan, began_s = QUICK if options.quick else FULL, time.monotonic()
    head = reporting.report_head(KIND) | {
        "versions": reporting.package_versions("retouch", "python", "kafka", "faust", "aiokafka", "qdrant-edge", "sentence-transformers", "torch"),
        "plan": asdict(plan) | {"minutes": options.minutes, "sample_every_s": plan.sample_every_s(60 * options.minutes), "seed": options.seed},
    }
    soak = SoakRun(settings.changed(stack={"dir": state}), plan, 60 * options.minutes, options.seed)
    try:
        soak.play()
    except (KeyboardInterrupt, SystemExit, RetouchError) as end:
        if soak.began_s is None or not soak.samples:
            reporting.log_progress("soak", "ended before the soak began: nothing was measured, and no report is written")
            raise
        why = f"{end}" if isinstance(end, RetouchError) else "interrupted"
        reporting.log_progress("soak", f"{why}; all processes have ended; the report holds what was measured so far")
        _publish(head | report(soak, began_s, ended_early=why), options.out, as_json)
        if isinstance(end, SystemExit):
            raise
        return INTERRUPTED if isinstance(end, KeyboardInterrupt) else FAILED
    return _publish(head | report(soak, began_s), options.out, as_json)


def report(soak: SoakRun, command_began_s: float, *, ended_early: str | None = None) -> dict[str, Any]:
    """The figures of a run that has ended. `ended_early`: why, or None."""
    assert soak.began_s is not None
    begin_s, end_s = soak.began_s, soak.ended_s
    with soak.lines.open(encoding="utf-8") as lines:
        answers = answers_of(lines)
    figures = {
        "ended_early": ended_early,
        "minutes": round((end_s - begin_s) / 60, 2),
        "capacity": soak.capacity,
        "answers": answer_figures(answers, begin_s, end_s, was_interrupted=ended_early is not None),
        "processes": process_figures(soak.samples, INTERACTIONS.name),
        "lags": lag_figures(soak.samples),
        "restarts": soak.samples[-1].restarts,
        "timeline": timeline(soak.samples, begin_s),
    }
    return figures | reporting.verdict(targets(figures)) | {"seconds": round(time.monotonic() - command_began_s, 1)}


def _publish(report: Mapping[str, Any], out: Path, as_json: bool) -> int:
    picture.draw(report, out / PICTURE)
    return reporting.publish(report, out / REPORT, "\n".join(lines(report, out)), as_json)


def lines(report: Mapping[str, Any], out: Path) -> list[str]:
    """The report as text."""
    capacity, answers = report["capacity"], report["answers"]
    slow = f", {capacity['slowest']} handled {capacity['handled_share']:.2f} of its inflow" if capacity["slowest"] else ""
    said = [
        f"capacity: {capacity['per_s']:.1f} questions/s ({capacity['answered_per_s']:.1f} answers/s with {capacity['in_flight']} open{slow}); "
        f"soak: {report['minutes']:g} minutes at {capacity['load_per_s']:.1f}/s" + (f", ended early: {report['ended_early']}" if report["ended_early"] else ""),
        f"{answers['asked']} questions asked, {answers['lost']} lost, {answers['repeated']} answered again, {answers['statuses']}",
    ]
    for name, title in (("first_third_ms", "first third"), ("last_third_ms", "last third")):
        if spread := answers[name]:
            said.append(f"latency of the {title}: p50 {spread['p50']:.0f} ms, p99 {spread['p99']:.0f} ms")
    for name, figures in report["processes"].items():
        (first, last), files, threads = figures["pss_mb"], figures["open_files"], figures["threads"]
        items = f", {figures['items']} new items among it" if figures["items"] else ""
        said.append(f"{name}: {first:.0f} to {last:.0f} MB{items}; {files[0]:.0f} to {files[1]:.0f} open files; {threads[0]:.0f} to {threads[1]:.0f} threads")
    return [*said, "", *reporting.target_lines(report), "", f"{report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}"]
