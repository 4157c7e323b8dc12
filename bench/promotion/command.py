"""`retouch bench promotion`: how often the promoter's verdict is right, over simulated canaries.

`OUT` gets `promotion.json` and `promotion.png`. The result of an experiment depends neither on the others nor on the number of processes.
"""

from __future__ import annotations

import multiprocessing
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import reporting
from bench.promotion import picture, summary
from bench.promotion.experiment import ExperimentResult, simulate
from bench.promotion.population import Kind, ScoredUsers, scored_users
from bench.promotion.scenarios import FULL, SHORT, CanaryScenario, PromotionPlan, scenarios
from infra.errors import CannotContinue
from infra.settings import Settings
from infra.settings.promotion import PromotionSettings
from schemas.domains import Domains

KIND = "retouch.bench-promotion.v1"
REPORT, PICTURE = "promotion.json", "promotion.png"
#: Experiments in one task of a process, and the bound for one task.
BATCH, BATCH_S = 20, 600.0

#: In each process: what all experiments share.
_shared: tuple[Mapping[Kind, ScoredUsers], PromotionSettings, PromotionPlan] | None = None


def run(settings: Settings, out: Path, *, short: bool = False, jobs: int = 2, only: Collection[str] = (), as_json: bool = False) -> int:
    """Blocks for minutes. Exit codes: 0 every target met, 1 one was missed.

    Raises BadSetting for an unknown scenario, CannotContinue if `out` cannot be written, before the start, and if a process dies.
    """
    plan = SHORT if short else FULL
    chosen = scenarios(plan, only)
    reporting.check_writable(out, REPORT, PICTURE)
    report = measure(settings.promotion, settings.entries, plan, chosen, jobs)
    picture.draw(report, out / PICTURE)
    return reporting.publish(report, out / REPORT, "\n".join(lines(report, out)), as_json)


def measure(promotion: PromotionSettings, entries: Domains, plan: PromotionPlan, chosen: Sequence[CanaryScenario], jobs: int) -> dict[str, Any]:
    """The whole report."""
    began, head = time.monotonic(), reporting.report_head(KIND)
    pools: dict[Kind, ScoredUsers] = {kind: scored_users(kind, plan.personas, plan.seed, entries) for kind in ("personas", "levels")}
    summaries = [summary.summary(scenario, results) for scenario, results in _results(pools, promotion, plan, chosen, jobs)]
    return {
        **head,
        "plan": asdict(plan),
        "settings": promotion.model_dump(mode="json", exclude={"operator_token"}),
        "populations": {kind: {name: round(value, 3) for name, value in pool.figures().items()} for kind, pool in pools.items()},
        "scenarios": summaries,
        **reporting.verdict(summary.targets(summaries)),
        "seconds": round(time.monotonic() - began, 1),
    }


def lines(report: Mapping[str, Any], out: Path) -> list[str]:
    """The report as text."""
    return [*map(summary.line, report["scenarios"]), "", *reporting.target_lines(report), "", f"{report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}"]


def _results(
    pools: Mapping[Kind, ScoredUsers], promotion: PromotionSettings, plan: PromotionPlan, chosen: Sequence[CanaryScenario], jobs: int
) -> Iterator[tuple[CanaryScenario, list[ExperimentResult]]]:
    """The scenarios in order, with one progress line each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _initialize, (pools, promotion, plan)) as processes:
        tasks = [(scenario, [processes.submit(_simulate_batch, scenario, start) for start in range(0, scenario.experiments, BATCH)]) for scenario in chosen]
        try:
            for scenario, batches in tasks:
                results = [result for batch in batches for result in batch.result(timeout=BATCH_S)]
                reporting.log_progress("promotion", f"{len(results)} experiments of {scenario.title}")
                yield scenario, results
        except BrokenProcessPool as error:
            raise CannotContinue("a process of the simulation died; too little memory?") from error
        except TimeoutError as error:
            raise CannotContinue(f"{BATCH} experiments took longer than {BATCH_S:.0f} s") from error
        finally:
            processes.shutdown(wait=False, cancel_futures=True)


def _initialize(pools: Mapping[Kind, ScoredUsers], promotion: PromotionSettings, plan: PromotionPlan) -> None:
    global _shared
    _shared = pools, promotion, plan


def _simulate_batch(scenario: CanaryScenario, start: int) -> list[ExperimentResult]:
    if _shared is None:
        raise RuntimeError("the process was not initialized")
    pools, promotion, plan = _shared
    numbers = range(start, min(start + BATCH, scenario.experiments))
    return [simulate(scenario, pools[scenario.population], promotion, plan.looks, seed_of(plan, scenario, number)) for number in numbers]


def seed_of(plan: PromotionPlan, scenario: CanaryScenario, number: int) -> tuple[int, ...]:
    """The seed of one experiment, the same in every run with this plan's seed."""
    return plan.seed, zlib.crc32(scenario.name.encode()), number
