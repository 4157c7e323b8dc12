"""Kills a promoter at every boundary between two writes, in every scenario. There are no users and no workers, and each registry is a copied file."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from infra.settings import Settings
from lab.promotion.promoter_runs import PromoterRun, database, import_mlflow, make_registry, run_promoter
from lab.promotion.scenarios import CANDIDATE, SCENARIOS, PromotionScenario


class KillCase(NamedTuple):
    """A promoter that is killed at these boundaries, run after run; the last run is not killed."""

    scenario: PromotionScenario
    kills: tuple[int, ...]


def run_boundaries(settings: Settings, folder: Path, kills: int, scenarios: Sequence[PromotionScenario] = SCENARIOS) -> dict[str, Any]:
    """Runs at least `kills` kills, spread over all scenarios, if they have any boundary. The registries lie in `folder`."""
    began = time.monotonic()
    import_mlflow()
    own = settings.changed(stack={"dir": folder}, registry={"tracking_uri": None}, kafka={"bootstrap_servers": None})
    make_registry(own)
    template = folder / "template.db"
    database(own).rename(template)
    anomalies: list[str] = []
    undisturbed = {scenario.name: _run(own, template, KillCase(scenario, ()), anomalies)[0] for scenario in scenarios}
    for scenario in scenarios:
        if (state := undisturbed[scenario.name].shape[CANDIDATE]["state"]) != scenario.final_state:
            anomalies.append(f"{scenario.name}: ends {state} without kills, not {scenario.final_state}")
    done = dict.fromkeys(undisturbed, 0)
    for case in _with_progress(cases(scenarios, {name: 2 * run.writes for name, run in undisturbed.items()}, kills), kills):
        run, killed = _run(own, template, case, anomalies)
        done[case.scenario.name] += killed
        if run.shape != undisturbed[case.scenario.name].shape:
            anomalies.append(f"{case.scenario.name}, killed at {case.kills}: ends differently than without kills")
        if sum(done.values()) >= kills:
            break
    return {
        "kills": {"promoter": sum(done.values())},
        "anomalies": anomalies,
        "scenarios": {name: {"kills": done[name], "writes": run.writes, "ends": run.shape[CANDIDATE]["state"]} for name, run in undisturbed.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def cases(scenarios: Sequence[PromotionScenario], boundaries: dict[str, int], kills: int) -> Iterator[KillCase]:
    """Each boundary once, or `kills` of them, evenly spread; beyond that, cases with two kills."""
    single = [KillCase(scenario, (at,)) for scenario in scenarios for at in range(boundaries[scenario.name])]
    if kills < len(single):
        yield from (single[number * len(single) // kills] for number in range(kills))
        return
    yield from single
    for again in itertools.count():
        yield from (KillCase(case.scenario, (*case.kills, again)) for case in single if case.kills[0] + again < boundaries[case.scenario.name])
        if again > max(boundaries.values(), default=0):
            return


def _run(settings: Settings, template: Path, case: KillCase, anomalies: list[str]) -> tuple[PromoterRun, int]:
    """The last run, and the number of kills."""
    shutil.copyfile(template, database(settings))
    killed = 0
    for kill_at in (*case.kills, None):
        run = run_promoter(settings, case.scenario, kill_at)
        anomalies += [f"{case.scenario.name}, killed at {case.kills}: {anomaly}" for anomaly in run.anomalies]
        if not run.was_killed:
            break
        killed += 1
    return run, killed


def _with_progress(cases: Iterable[KillCase], kills: int) -> Iterator[KillCase]:
    """Shows a progress bar on a terminal."""
    from rich.progress import track

    yield from track(cases, "killing", total=kills) if sys.stdout.isatty() else cases
