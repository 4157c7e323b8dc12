"""Plays a traffic plan against a running system, one phase at a time, and summarizes each phase.

`history` sends the users' past. `learn` asks questions and sends feedback. `probe` asks the exam without feedback, so that rounds before and after a
promotion see the same history. `steady` and `burst` keep questions open while something else happens. `trial` does the same with feedback, from which
a new version is tested on users.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO

from infra.process.lifecycle import mark_ready
from infra.settings import Settings
from schemas.topics import FEEDBACK, INTERACTIONS, RESPONSES
from traffic.datasets.steps import Question
from traffic.lag import GroupLag
from traffic.plan import PlannedQuestion, TrafficPlan
from traffic.platform import AskingLimits, AskingResult, Platform
from traffic.schedule import AskingSchedule, GivenOrder, OldestFirst, Pace


class Phase(StrEnum):
    HISTORY = "history"
    LEARN = "learn"
    PROBE = "probe"
    STEADY = "steady"
    BURST = "burst"
    TRIAL = "trial"


@dataclass(frozen=True)
class PhaseOptions:
    """How a phase runs. `round` is part of the queries' ids: the same round asked twice sends the same queries twice."""

    round: str = "0"
    limits: AskingLimits = field(default_factory=AskingLimits)
    seconds: float | None = None  # steady, trial: None runs until the stop
    count: int = 16  # burst: number of questions at once
    only: Collection[str] = ()  # probe: only these users
    settle: bool = False  # history, learn: wait until the streams have handled everything
    truths: Path | None = None  # append the ground truth of each question to this file, as JSON Lines


def play(settings: Settings, plan: TrafficPlan, phase: Phase, options: PhaseOptions, pace: Pace, stop: threading.Event) -> dict[str, object]:
    """Run one phase until it ends or `stop` is set. Returns its summary. Blocks; only a steady phase without `seconds` has no bound."""
    started = time.monotonic()
    with ExitStack() as closing:
        platform = closing.enter_context(Platform(settings, "/traffic/simulation"))
        mark_ready(settings)
        if phase is Phase.HISTORY:
            sent, outcome = platform.send_interactions(plan.past(), pace=pace, stop=stop), AskingResult()
        else:
            file = closing.enter_context(options.truths.open("a", encoding="utf-8")) if options.truths else None
            schedule, limits = _schedule(plan, phase, options)
            sent, outcome = 0, platform.ask(schedule, limits, pace=pace, stop=stop, on_asked=lambda question: _note(file, question))
        settled = options.settle and not stop.is_set() and _settle(settings, options.limits.timeout_s, stop)
    return {
        "phase": phase.value,
        "round": options.round,
        "users": plan.users,
        "interactions": sent,
        **outcome.tally.summary(),
        "feedback": outcome.feedback,
        "unsent": outcome.unsent,
        "settled": settled,
        "seconds": round(time.monotonic() - started, 3),
    }


def _schedule(plan: TrafficPlan, phase: Phase, options: PhaseOptions) -> tuple[AskingSchedule, AskingLimits]:
    if phase is Phase.LEARN:
        return OldestFirst(plan.lessons(options.round)), options.limits
    if phase is Phase.PROBE:
        return GivenOrder(plan.exams(options.round, options.only)), options.limits
    background = plan.background(phase.value, options.round)
    if phase is Phase.BURST:
        all_at_once = max(options.count, options.limits.max_in_flight)
        return GivenOrder(islice(background, options.count)), replace(options.limits, max_in_flight=all_at_once)
    return GivenOrder(_for_seconds(background, options.seconds)), options.limits


def _for_seconds(questions: Iterable[PlannedQuestion], seconds: float | None) -> Iterator[PlannedQuestion]:
    ends_at = None if seconds is None else time.monotonic() + seconds
    for question in questions:
        if ends_at is not None and time.monotonic() > ends_at:
            return
        yield question


def _note(file: IO[str] | None, question: Question) -> None:
    if file and isinstance(question, PlannedQuestion):
        file.write(json.dumps(question.ground_truth(), ensure_ascii=False) + "\n")


def _settle(settings: Settings, stall_s: float, stop: threading.Event) -> bool:
    """Wait for the joins first, because they write the interactions of feedback."""
    with GroupLag(settings) as lag:
        return lag.wait([RESPONSES, FEEDBACK], stall_s=stall_s, stop=stop) and lag.wait([INTERACTIONS], stall_s=stall_s, stop=stop)
