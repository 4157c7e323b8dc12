"""Promoters killed at every boundary between two writes, in every scenario: nobody asks and nobody answers, and a registry is a copied file."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from infra.settings import Settings
from lab.promotion.lives import PromoterRun, database, live, make_registry, prepare
from lab.promotion.scenarios import COMING, SCENARIOS, PromotionScenario


class KillCase(NamedTuple):
    """One run: the promoter's lives end at these boundaries, one after another; the last goes on to the end."""

    scenario: PromotionScenario
    kills: tuple[int, ...]


@dataclass(frozen=True)
class Course:
    """How a scenario goes without kills."""

    life: PromoterRun

    @property
    def boundaries(self) -> int:
        return 2 * self.life.writes


def experiment(settings: Settings, place: Path, kills: int, scenarios: Sequence[PromotionScenario] = SCENARIOS) -> dict[str, Any]:
    """At least `kills` of them where the scenarios have a boundary at all, spread over all scenarios. Its registries lie in `place`."""
    began = time.monotonic()
    prepare()
    own = _settings_in(settings, place)
    make_registry(own)
    template = place / "template.db"
    database(own).rename(template)
    anomalies: list[str] = []
    courses = {scenario.name: Course(_run(own, template, KillCase(scenario, ()), anomalies)[0]) for scenario in scenarios}
    for scenario in scenarios:
        if (state := courses[scenario.name].life.left[COMING]["state"]) != scenario.ends:
            anomalies.append(f"{scenario.name}: ends {state} without kills, not {scenario.ends}")
    done = dict.fromkeys(courses, 0)
    for case in _shown(cases(scenarios, {name: course.boundaries for name, course in courses.items()}, kills), kills):
        life, killed = _run(own, template, case, anomalies)
        done[case.scenario.name] += killed
        if life.left != courses[case.scenario.name].life.left:
            anomalies.append(f"{case.scenario.name}, killed at {case.kills}: ends otherwise than without kills")
        if sum(done.values()) >= kills:
            break
    return {
        "kills": {"promoter": sum(done.values())},
        "anomalies": anomalies,
        "scenarios": {name: {"kills": done[name], "writes": course.life.writes, "ends": course.life.left[COMING]["state"]} for name, course in courses.items()},
        "seconds": round(time.monotonic() - began, 1),
    }


def cases(scenarios: Sequence[PromotionScenario], boundaries: dict[str, int], kills: int) -> Iterator[KillCase]:
    """Every boundary once, or so many as are wanted, evenly spread; beyond that, runs that are killed twice."""
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
    """The last life, and how many were killed."""
    shutil.copyfile(template, database(settings))
    killed = 0
    for kill_at in (*case.kills, None):
        life = live(settings, case.scenario, kill_at)
        anomalies += [f"{case.scenario.name}, killed at {case.kills}: {told}" for told in life.found]
        if not life.was_killed:
            break
        killed += 1
    return life, killed


def _settings_in(settings: Settings, place: Path) -> Settings:
    registry = settings.registry.model_copy(update={"tracking_uri": None})
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": None})
    return settings.model_copy(update={"stack": settings.stack.model_copy(update={"dir": place}), "registry": registry, "kafka": kafka})


def _shown(found: Iterable[KillCase], kills: int) -> Iterator[KillCase]:
    """A progress bar, on a terminal."""
    from rich.progress import track

    yield from track(found, "killing", total=kills) if sys.stdout.isatty() else found
