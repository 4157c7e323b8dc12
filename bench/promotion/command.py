"""`retouch bench promotion`: how often the promoter's verdict is right, over simulated canaries.

`OUT` gets `promotion.json` and `promotion.png`. Experiments are independent of one another, of their order and of the number of processes.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.promotion import picture, summary
from bench.promotion.experiment import ExperimentResult, simulate
from bench.promotion.plan import FULL, SHORT, PromotionPlan
from bench.promotion.population import Kind, ScoredUsers, scored_users
from bench.promotion.scenarios import CanaryScenario, scenarios
from bench.targets import Target
from infra.errors import CannotContinue
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import PromotionSettings, Settings

KIND = "retouch.bench-promotion.v1"
REPORT, PICTURE = "promotion.json", "promotion.png"
#: Experiments of one errand, and how long it may take, whatever else the machine does.
BATCH, BATCH_S = 20, 600.0

#: Of a worker process: what every experiment has in common.
_common: tuple[Mapping[Kind, ScoredUsers], PromotionSettings, PromotionPlan] | None = None


def run(settings: Settings, out: Path, *, short: bool = False, jobs: int = 2, only: Collection[str] = (), as_json: bool = False) -> int:
    """Blocks for minutes. Exit codes: 0 every target met, 1 one was missed.

    Raises BadSetting for a scenario there is not, CannotContinue before anything starts when `out` cannot be written, and where a process dies.
    """
    plan = SHORT if short else FULL
    chosen = scenarios(plan, only)
    for name in (REPORT, PICTURE):
        output_files.check_writable(out / name)
    report = measure(settings.promotion, plan, chosen, jobs)
    text = json.dumps(report, indent=1) + "\n"
    output_files.write(out / REPORT, text)
    picture.draw(report, out / PICTURE)
    sys.stdout.write(text if as_json else "\n".join(lines(report, out)) + "\n")
    return OK if report["ok"] else FAILED


def measure(promotion: PromotionSettings, plan: PromotionPlan, chosen: Sequence[CanaryScenario], jobs: int) -> dict[str, Any]:
    """The whole report."""
    began, started_at = time.monotonic(), datetime.now(UTC)
    pools: dict[Kind, ScoredUsers] = {kind: scored_users(kind, plan.personas, plan.seed) for kind in ("personas", "levels")}
    summaries = [summary.summary(scenario, results) for scenario, results in _results(pools, promotion, plan, chosen, jobs)]
    judged = summary.targets(summaries)
    return {
        "kind": KIND,
        "started_at": started_at.isoformat(timespec="seconds"),
        "machine": machine.describe().model_dump(),
        "plan": asdict(plan),
        "settings": promotion.model_dump(mode="json", exclude={"operator_token"}),
        "populations": {kind: {name: round(value, 3) for name, value in one.figures().items()} for kind, one in pools.items()},
        "scenarios": summaries,
        "targets": [target.to_json() for target in judged],
        "ok": all(target.met for target in judged),
        "seconds": round(time.monotonic() - began, 1),
    }


def lines(report: Mapping[str, Any], out: Path) -> list[str]:
    """For a person."""
    judged = [Target.of(one).line() for one in report["targets"]]
    return [*map(summary.line, report["scenarios"]), "", *judged, "", f"{report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}"]


def _results(
    pools: Mapping[Kind, ScoredUsers], promotion: PromotionSettings, plan: PromotionPlan, chosen: Sequence[CanaryScenario], jobs: int
) -> Iterator[tuple[CanaryScenario, list[ExperimentResult]]]:
    """Scenario by scenario, each told on standard error."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (pools, promotion, plan)) as processes:
        errands = [(scenario, [processes.submit(_batch, scenario, start) for start in range(0, scenario.experiments, BATCH)]) for scenario in chosen]
        try:
            for scenario, batches in errands:
                results = [result for batch in batches for result in batch.result(timeout=BATCH_S)]
                sys.stderr.write(f"bench promotion: {len(results)} of {scenario.title}\n")
                yield scenario, results
        except BrokenProcessPool as error:
            raise CannotContinue("a process of the simulation died; too little memory?") from error
        except TimeoutError as error:
            raise CannotContinue(f"{BATCH} experiments took longer than {BATCH_S:.0f} s") from error
        finally:
            processes.shutdown(wait=False, cancel_futures=True)


def _begin(pools: Mapping[Kind, ScoredUsers], promotion: PromotionSettings, plan: PromotionPlan) -> None:
    global _common
    _common = pools, promotion, plan


def _batch(scenario: CanaryScenario, start: int) -> list[ExperimentResult]:
    if _common is None:
        raise RuntimeError("the process was not begun")
    pools, promotion, plan = _common
    numbers = range(start, min(start + BATCH, scenario.experiments))
    return [simulate(scenario, pools[scenario.population], promotion, plan.looks, seed_of(plan, scenario, number)) for number in numbers]


def seed_of(plan: PromotionPlan, scenario: CanaryScenario, number: int) -> tuple[int, ...]:
    """Of one experiment, wherever and whenever it is simulated."""
    return plan.seed, zlib.crc32(scenario.name.encode()), number
