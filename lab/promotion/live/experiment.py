"""One run: the system starts, every case is played, everything is answered, and all of it is judged."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.verification import inspect_checkpoint
from infra.errors import CannotContinue
from infra.settings import Settings
from lab.promotion.live.checker import GRACE_S, AnswerChecker
from lab.promotion.live.play import CaseResult, CaseRunner
from lab.promotion.live.scenarios import CHAMPION, VICTIMS, LiveCase
from lab.promotion.live.system import LiveSystem
from lab.promotion.live.words import Words, compare, spoken


def live(settings: Settings, place: Path, cases: Iterable[LiveCase], seed: int, tell: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The report. Blocks for minutes. Cases must end as the first of their scenario does. Raises CannotContinue where nothing starts."""
    began, load = time.monotonic(), os.getloadavg()[0]
    place.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    done: list[CaseResult] = []
    with LiveSystem(settings, place) as system:
        tell("the system serves")
        play = CaseRunner(system, seed)
        try:
            play.warm_up()
            for case in cases:
                done.append(play.perform(case))
                tell(_told(done[-1]))
                if done[-1].ended is None:
                    break  # the next one would begin in the midst of it
            if not play.drain():
                told.append("not everything was answered in time")
        except CannotContinue as error:
            told.append(str(error))
        finally:
            play.close()
        checker = AnswerChecker(play.watch.histories, system.absences)
        told += [*_ends(done), *play.watch.found, *checker.anomalies(play.users.asked, play.users.answers, play.users.shadows, play.users.events)]
    compared, mixed = compare(play.users.answers, _words(settings, play))
    return {
        "kills": {victim: sum(kill.victim == victim for played in done for kill in played.kills) for victim in VICTIMS},
        "anomalies": [*told, *mixed],
        "cases": [_line(played) for played in done],
        "answers": {"asked": len(play.users.asked), "shown": len(play.users.answers), "unseen": len(play.users.shadows), **_by(play), **compared},
        "looks": {"registry": play.watch.looks, "missed": play.watch.missed},
        "grace_s": GRACE_S,
        "slowest_s": round(checker.slowest_s, 2),
        "recoveries_s": {name: {"median": _median(times), "max": max(times)} for name, times in system.recoveries_s.items()},
        "unasked_ends": system.unasked_ends,
        "load_average_before": round(load, 2),
        "seconds": round(time.monotonic() - began, 1),
    }


def _words(settings: Settings, play: CaseRunner) -> dict[str, Words]:
    """Of every checkpoint that answered."""
    stamped = {answer.model.digest for answer in play.users.answers if answer.model}
    checkpoints = {inspect_checkpoint(path).digest: path for path in (checkpoint_folder(settings.reflection.checkpoint), play.checkpoint)}
    return {digest: spoken(play.system.settings, checkpoints[digest], digest, play.users.contexts) for digest in sorted(stamped & checkpoints.keys())}


def _ends(done: list[CaseResult]) -> list[str]:
    told, meant = [], dict[str, Any]()
    for number, played in enumerate(done):
        name = played.case.scenario.name
        killed = ", ".join(f"{kill.victim} after {kill.after}" for kill in played.kills) or "nobody"
        case = f"case {number + 1}, {name} (version {played.version}, killed: {killed})"
        if played.way != played.case.scenario.way:
            told.append(f"{case}: went {' '.join(played.way)}, not {' '.join(played.case.scenario.way)}")
        if played.ended is None:
            told.append(f"{case}: did not end")
        elif played.ended != meant.setdefault(name, played.ended):
            told.append(f"{case}: ends otherwise than without kills: {played.ended}, not {meant[name]}")
    return told


def _line(played: CaseResult) -> dict[str, Any]:
    kills = [{"victim": kill.victim, "after": kill.after.value, "late_s": kill.late_s} for kill in played.kills]
    return {"scenario": played.case.scenario.name, "version": played.version, "seconds": played.seconds, "kills": kills}


def _told(played: CaseResult) -> str:
    ended = "ended" if played.ended is not None else "did not end"
    return f"version {played.version}, {played.case.scenario.name}: {ended} in {played.seconds:g} s, {len(played.kills)} kills"


def _by(play: CaseRunner) -> dict[str, int]:
    """How many answers each side gave."""
    by = Counter("champion" if answer.model.version == CHAMPION else "challenger" for answer in play.users.answers if answer.model)
    return {"by_champion": by["champion"], "by_challenger": by["challenger"], "base": len(play.users.answers) - by.total()}


def _median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]
