"""`retouch bench train`: measures learning on held-out users, against its targets.

`OUT` gets `train.json` (its fields are in `report.py`), `train.md` and `train.png`. Checkpoints stay there until the run ends.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import reporting
from bench.targets import Bound, Target
from bench.train import arms, collection, judge, picture, regimes, speed, tables
from bench.train import plan as plans
from bench.train.arm_runner import ArmRunner
from bench.train.examples import Examples, build
from bench.train.jobs import ArmJobs, jobs
from bench.train.judge import NEEDED, targets
from bench.train.plan import TrainPlan
from bench.train.report import KIND, Measurement
from bench.train.source_data import SourceData, from_dataset, from_world
from infra.errors import BadSetting
from infra.process import output_files
from infra.settings import Settings
from trainer.judge.evaluate import choose_cases

#: Maximum growth of the cost per trajectory from the smallest to the largest size, with a margin for a shared machine.
MAX_GROWTH = 1.5
#: Figures and targets of a measurement beside the arms.
SideMeasurement = tuple[dict[str, Any], list[Target]]


def _speed(settings: Settings, quick: bool) -> SideMeasurement:
    small = settings.trainer.rl.model_copy(update={"prompts_per_step": 4, "candidates": 4}) if quick else None
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, cases = speed.prepared(settings, Path(scratch))
        comparison = speed.measure(checkpoint, cases, settings, rounds=1 if quick else 5, rl=small)
    name = "RL's completions per second, times TRL's GRPOTrainer's"
    targets = [
        Target(name, Bound.AT_LEAST, speed.TARGET, comparison.ratio),
        Target(f"{name}, by token", Bound.AT_LEAST, speed.TARGET, comparison.ratio_by_token),
    ]
    return asdict(comparison), targets


def _collection(settings: Settings, quick: bool) -> SideMeasurement:
    costs = collection.measure(collection.SIZES[:1] if quick else collection.SIZES)
    sizes = f"{costs.costs[0].trajectories:,} to {costs.costs[-1].trajectories:,}"
    return asdict(costs), [Target(f"cost of a trajectory, growth from {sizes}", Bound.AT_MOST, MAX_GROWTH, costs.growth)]


REPORT, TABLE, PICTURE = "train.json", "train.md", "train.png"
ARMS = "arms"
SIDE_MEASUREMENTS: dict[str, Callable[[Settings, bool], SideMeasurement]] = {"speed": _speed, "collection": _collection}
PARTS = (ARMS, *SIDE_MEASUREMENTS)


@dataclass(frozen=True)
class TrainOptions:
    """The options of the command line."""

    out: Path
    quick: bool = False
    minutes: float = 5.0
    seed: int = 0
    jobs: int = 2
    arms: tuple[str, ...] = ()
    regime: str | None = None
    data: Path | None = None
    parts: tuple[str, ...] = (ARMS,)

    def plan(self) -> TrainPlan:
        whole = plans.QUICK if self.quick else plans.planned(self.minutes)
        return plans.real(whole) if self.data and not self.quick else whole


def run(settings: Settings, options: TrainOptions, as_json: bool = False) -> int:
    """Blocks for as long as the arms take. Exit codes: 0 every target met, 1 one was missed.

    Raises BadSetting for unknown names, CannotContinue if a step fails, and before the start if `out` cannot be written.
    """
    _check(settings, options)
    reporting.check_writable(options.out, REPORT, TABLE, PICTURE)
    report, measurements = measure(settings, options)
    table = tables.markdown(measurements, report)
    output_files.write(options.out / TABLE, table)
    for name, measurement in measurements.items():
        path = options.out / (PICTURE if len(measurements) == 1 else f"train-{name}.png")
        picture.draw(measurement, options.plan(), path, f"{report['started_at'][:10]}, seed {options.seed}")
    return reporting.publish(report, options.out / REPORT, table.rstrip("\n"), as_json)


def measure(settings: Settings, options: TrainOptions) -> tuple[dict[str, Any], dict[str, Measurement]]:
    """The whole report as in JSON, and the measurements in it."""
    began, head = time.monotonic(), reporting.report_head(KIND)
    plan = options.plan()
    measurements = _measurements(settings, options, plan) if ARMS in options.parts else {}
    others = {name: SIDE_MEASUREMENTS[name](settings, options.quick) for name in options.parts if name != ARMS}
    report = head | {
        "seconds": round(time.monotonic() - began, 1),
        "versions": reporting.package_versions("retouch", "python", "torch", "transformers", "trl", "sentence-transformers"),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
        "plan": asdict(plan),
        "settings": settings.trainer.model_dump(mode="json"),
        "measurements": {name: asdict(measurement) for name, measurement in measurements.items()},
        "parts": {name: figures for name, (figures, _) in others.items()},
    }
    targets_of_parts = [target for _, side_targets in others.values() for target in side_targets]
    return report | reporting.verdict([*_judged(measurements, options, plan), *targets_of_parts]), measurements


def _check(settings: Settings, options: TrainOptions) -> None:
    known_arms = [arms.ZERO_SHOT, *(arm.name for arm in arms.arms(options.plan(), settings))]
    for name, values, allowed in (("--arms", options.arms, known_arms), ("--parts", options.parts, PARTS)):
        if unknown := sorted(set(values) - set(allowed)):
            raise BadSetting(f"{name} {','.join(unknown)}: unknown; expected some of {','.join(allowed)}")
    if settings.base.url:
        raise BadSetting("base.url (OPENAI_BASE_URL): must not be set; this command asks no endpoint, drafts come from base.checkpoint")
    if options.regime and (options.data or options.arms):
        raise BadSetting("--regime sets its own arms and world; leave out --data and --arms")
    if options.regime:
        regimes.named(options.regime)


def _measurements(settings: Settings, options: TrainOptions, plan: TrainPlan) -> dict[str, Measurement]:
    if not options.regime:
        return {"real" if options.data else "plain": _measured(settings, options, plan)}
    by_population: dict[Any, Examples] = {}
    measurements = {}
    for regime in regimes.named(options.regime):
        population = regimes.population(regime, plan.population)
        if population not in by_population:
            by_population[population] = _prepared(from_world(population, options.seed, settings.trainer.holdout_share), settings, plan)
        data = regimes.degraded(by_population[population], regime, options.seed)
        with _working(data, settings, options, plan) as running:
            regimes.run(running, plan, settings)
        measurements[regime.name] = judge.judge(data, running.results, plan, regimes.pairs)
    return measurements


def _measured(settings: Settings, options: TrainOptions, plan: TrainPlan) -> Measurement:
    """All arms on one world or data set."""
    if options.data:
        source = from_dataset(options.data, plan.authors_last, plan.authors_each)
    else:
        source = from_world(plan.population, options.seed, settings.trainer.holdout_share)
    data = _prepared(source, settings, plan)
    with _working(data, settings, options, plan) as running:
        running.run(arms.chosen(arms.arms(plan, settings), options.arms or (arms.REAL if options.data else ())))
    return judge.judge(data, running.results, plan)


def _prepared(source: SourceData, settings: Settings, plan: TrainPlan) -> Examples:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    data = reporting.timed("train", "data", lambda: build(source, settings, threading.Event()))
    return replace(data, heldout=choose_cases(data.heldout, plan.judged), dev=choose_cases(data.dev, plan.dev))


@contextmanager
def _working(data: Examples, settings: Settings, options: TrainOptions, plan: TrainPlan) -> Iterator[ArmJobs]:
    settings = settings.changed(reflection={"max_new_tokens": max(settings.reflection.max_new_tokens, plan.max_new_tokens)})
    folder = tempfile.TemporaryDirectory(prefix="checkpoints-", dir=options.out)
    with folder as name, jobs(ArmRunner(data, plan, settings, options.seed, Path(name)), options.jobs) as running:
        yield running


def _judged(measurements: Mapping[str, Measurement], options: TrainOptions, plan: TrainPlan) -> list[Target]:
    """Targets hold for the plain world with all needed arms. Other runs have none."""
    has_targets = "plain" in measurements and not options.regime and {*measurements["plain"].arms} >= NEEDED
    return targets(measurements["plain"], plan) if has_targets else []
