"""`retouch bench growth`: what an event, a search and an item cost in the embedded index as it grows a hundredfold, with vectors given.

The index is in a temporary directory, which is removed at the end and after an interruption. `OUT` gets `growth.json`, `growth.png` and the processes' logs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import reporting
from bench.growth import picture
from bench.growth.fill import FILL_FIGURES, FILL_JOB, FillFigures, FillJob
from bench.growth.plan import GrowthPlan
from bench.growth.targets import per_million, targets
from bench.ingest.child import finished
from infra.errors import CannotContinue
from infra.process.child import Child
from infra.settings import Settings

KIND = "retouch.bench-growth.v1"
REPORT, PICTURE = "growth.json", "growth.png"
FILL_S, STOP_S = 3_600.0, 10.0
#: Disk that an item takes, with a margin: less free space is refused before the start.
DISK_BYTES_PER_ITEM = 10_000


@dataclass(frozen=True)
class GrowthOptions:
    out: Path
    items: int = 1_000_000


def run(settings: Settings, options: GrowthOptions, *, as_json: bool = False) -> int:
    """Blocks for minutes; call it from the main thread. Exit codes: 0 every target met, 1 one was missed.

    Raises CannotContinue if a process fails, and before the start if `out` cannot be written or its disk has too little space.
    """
    reporting.check_writable(options.out, REPORT, PICTURE)
    report = measure(GrowthPlan(options.items), options.out)
    picture.draw(report, options.out / PICTURE)
    return reporting.publish(report, options.out / REPORT, "\n".join(lines(report, options.out)), as_json)


def measure(plan: GrowthPlan, out: Path) -> dict[str, Any]:
    """The whole report. The index lies beside it, because temporary directories are often in memory."""
    began_s, logs = time.monotonic(), out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    head = reporting.report_head(KIND) | {"versions": reporting.package_versions("retouch", "python", "qdrant-edge"), "plan": asdict(plan)}
    check_space(out, plan)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=out) as state:
        found = [_fill(Path(state), plan, first, last, logs) for first, last in [*pairwise((0, *plan.sizes)), (plan.items, plan.items)]]
    sizes = [asdict(figures.filled) for figures in found if figures.filled]
    return {
        **head,
        "sizes": sizes,
        "reopened": [asdict(figures.opened) for figures in found if figures.opened],
        "per_million": per_million(sizes),
        **reporting.verdict(targets(sizes)),
        "seconds": round(time.monotonic() - began_s, 1),
    }


def check_space(out: Path, plan: GrowthPlan) -> None:
    """Raises CannotContinue if the index may not fit."""
    free, needed = shutil.disk_usage(out).free, DISK_BYTES_PER_ITEM * plan.items
    if free < needed:
        raise CannotContinue(f"{out}: {free >> 20} MB are free, and an index of {plan.items} items may take {needed >> 20}; choose another --out")


def _fill(state: Path, plan: GrowthPlan, first: int, last: int, logs: Path) -> FillFigures:
    """One process. Raises CannotContinue if it fails."""
    name = f"fill-{last}" if last > first else f"open-{last}"
    command = [sys.executable, "-m", "bench.growth.fill", FILL_JOB.dump_json(FillJob(state / "index", plan, first, last)).decode()]
    child = Child(name, command, logs / f"{name}.log", output=state / f"{name}.json")
    child.start()
    try:
        return FILL_FIGURES.validate_json(_timed(name, lambda: finished(child, FILL_S)))
    finally:
        child.stop(STOP_S)


def lines(report: Mapping[str, Any], out: Path) -> list[str]:
    """The report as text."""
    space: Mapping[str, float] = report["per_million"]
    return [
        *map(_size_line, report["sizes"]),
        *_reopening_lines(report["reopened"]),
        f"a million items: {space['resident_mb']:.0f} MB resident, {space['anonymous_mb']:.0f} without mapped files; {space['disk_mb']:.0f} MB of disk",
        "",
        *reporting.target_lines(report),
        "",
        f"load average {report['load_average_before']} before the run, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}",
    ]


def _size_line(size: Mapping[str, Any]) -> str:
    searches = (f"{name} user p50 {size[name]['ms']['p50']}, p99 {size[name]['ms']['p99']} ms, CPU {size[name]['cpu_ms']} ms" for name in ("average", "heavy"))
    return (
        f"{size['size']} items: {size['cpu_ms_per_event']} ms of CPU an event ({size['events_per_s']:.0f}/s); search: {'; '.join(searches)}; "
        f"{size['resident_mb']:.0f} MB resident, {size['disk_bytes'] / 2**20:.0f} MB of disk"
    )


def _reopening_lines(reopened: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{each['size']} items reopened in {each['open_s']} s with {each['resident_mb']:.0f} MB; "
        f"first searches p50 {each['first_searches']['ms']['p50']}, longest {each['first_searches']['ms']['max']} ms"
        for each in reopened
    ]


_timed = partial(reporting.timed, "growth")
