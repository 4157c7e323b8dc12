"""One run: starts the system, runs every case, waits for all answers, and checks the invariants."""

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
from lab.promotion.live.case_runner import CaseResult, CaseRunner
from lab.promotion.live.checker import GRACE_S, AnswerChecker, Texts, compare, generated_texts
from lab.promotion.live.scenarios import CHAMPION, VICTIMS, LiveCase
from lab.promotion.live.system import LiveSystem


def run_live(settings: Settings, folder: Path, cases: Iterable[LiveCase], seed: int, log: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Returns the report. Blocks for minutes. Cases must end like the first one of their scenario. Raises CannotContinue if the system does not start."""
    started, load = time.monotonic(), os.getloadavg()[0]
    folder.mkdir(parents=True, exist_ok=True)
    anomalies: list[str] = []
    done: list[CaseResult] = []
    with LiveSystem(settings, folder) as system:
        log("the system serves")
        runner = CaseRunner(system, seed)
        try:
            runner.warm_up()
            for case in cases:
                done.append(runner.run(case))
                log(_progress(done[-1]))
                if done[-1].outcome is None:
                    break  # the next case would start in the middle of this one
            if not runner.drain():
                anomalies.append("not every question was answered in time")
        except CannotContinue as error:
            anomalies.append(str(error))
        finally:
            runner.close()
        checker = AnswerChecker(runner.watch.histories, system.downtimes)
        anomalies += [
            *_check_outcomes(done),
            *runner.watch.anomalies,
            *checker.anomalies(runner.users.asked, runner.users.answers, runner.users.shadows, runner.users.events),
        ]
    compared, mixed = compare(runner.users.answers, _texts(settings, runner))
    return {
        "kills": {victim: sum(kill.victim == victim for result in done for kill in result.kills) for victim in VICTIMS},
        "anomalies": [*anomalies, *mixed],
        "cases": [_line(result) for result in done],
        "answers": {"asked": len(runner.users.asked), "shown": len(runner.users.answers), "unseen": len(runner.users.shadows), **_by(runner), **compared},
        "looks": {"registry": runner.watch.readings, "missed": runner.watch.failed},
        "grace_s": GRACE_S,
        "slowest_s": round(checker.slowest_s, 2),
        "recoveries_s": {name: {"median": _median(times), "max": max(times)} for name, times in system.recoveries_s.items()},
        "unasked_ends": system.unexpected_exits,
        "load_average_before": round(load, 2),
        "seconds": round(time.monotonic() - started, 1),
    }


def _texts(settings: Settings, runner: CaseRunner) -> dict[str, Texts]:
    """The texts of every checkpoint that answered."""
    stamped = {answer.model.digest for answer in runner.users.answers if answer.model}
    checkpoints = {inspect_checkpoint(path).digest: path for path in (checkpoint_folder(settings.reflection.checkpoint), runner.checkpoint)}
    return {
        digest: generated_texts(runner.system.settings, checkpoints[digest], digest, runner.users.contexts) for digest in sorted(stamped & checkpoints.keys())
    }


def _check_outcomes(done: list[CaseResult]) -> list[str]:
    anomalies, references = [], dict[str, Any]()
    for number, result in enumerate(done):
        name = result.case.scenario.name
        killed = ", ".join(f"{kill.victim} after {kill.after}" for kill in result.kills) or "none"
        case = f"case {number + 1}, {name} (version {result.version}, killed: {killed})"
        if result.states != result.case.scenario.states:
            anomalies.append(f"{case}: went through {' '.join(result.states)}, not {' '.join(result.case.scenario.states)}")
        if result.outcome is None:
            anomalies.append(f"{case}: did not end")
        elif result.outcome != references.setdefault(name, result.outcome):
            anomalies.append(f"{case}: ends differently than without kills: {result.outcome}, not {references[name]}")
    return anomalies


def _line(result: CaseResult) -> dict[str, Any]:
    kills = [{"victim": kill.victim, "after": kill.after.value, "late_s": kill.late_s} for kill in result.kills]
    return {"scenario": result.case.scenario.name, "version": result.version, "seconds": result.seconds, "kills": kills}


def _progress(result: CaseResult) -> str:
    ended = "ended" if result.outcome is not None else "did not end"
    return f"version {result.version}, {result.case.scenario.name}: {ended} in {result.seconds:g} s, {len(result.kills)} kills"


def _by(runner: CaseRunner) -> dict[str, int]:
    """Number of answers by champion, challenger and base model."""
    by = Counter("champion" if answer.model.version == CHAMPION else "challenger" for answer in runner.users.answers if answer.model)
    return {"by_champion": by["champion"], "by_challenger": by["challenger"], "base": len(runner.users.answers) - by.total()}


def _median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]
