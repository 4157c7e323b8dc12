"""Added latency of two workers under a steady load, and the standstills of partitions after kills."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.workers import load
from bench.workers.answers import TimedAnswer, added_by_step, parse_answer, repeats, spread
from bench.workers.bench_stack import BenchStack
from bench.workers.cpu import CpuMeter
from bench.workers.live_reader import LiveReader
from bench.workers.plan import WORKERS, WorkersPlan
from bench.workers.process import WorkerKind
from infra.process.child import Child
from traffic.observer import ShownAnswer, Standstill, standstills

#: Time from the start of the load process to its first query, for imports.
LEAD_S = 2.5
#: Time after the last query for in-flight records.
DRAIN_S = 30.0
#: Answers of the first seconds do not count: connections open, code warms up.
SKIP_S = 3.0
#: Bin of the timeline in the picture.
BIN_S = 0.1


def added(stack: BenchStack, name: str, rate: float, plan: WorkersPlan) -> dict[str, Any]:
    """Measures added latency at `rate` queries per second."""
    kind = WorkerKind(name, name, plan.latency_in_flight)
    stack.make_worker_topics(kind)
    skip_s = min(SKIP_S, plan.latency_s / 3)
    count = int(rate * (plan.latency_s + skip_s))
    schedule = load.QuerySchedule(name, count, rate, plan.users)
    with LiveReader(stack.settings, kind.out) as reader, stack.workers(kind, WORKERS) as workers:
        schedule = replace(schedule, begin_at=time.time() + LEAD_S)
        with stack.loading(schedule) as sending:
            _sleep_until(schedule.begin_at + skip_s)
            meter = _meter(stack, workers, sending)
            _sleep_until(schedule.begin_at + schedule.seconds)
            cpu = meter.read()
            in_time = reader.wait_for(count, DRAIN_S)
        time.sleep(0.2)  # so that a repeated answer is read too
        answers = [parse_answer(raw) for raw in reader.records_of(kind.out)]
    counted = [answer for answer in answers if answer.asked_s >= schedule.begin_at + skip_s]
    end_s = schedule.begin_at + schedule.seconds
    visible = sum(answer.visible_s < end_s for answer in answers)
    return {
        "arm": name,
        "rate_per_s": round(rate, 1),
        "asked": count,
        "lost": count - len({answer.id for answer in answers}),
        "repeats": repeats(answers),
        "in_time": in_time,
        "waiting_at_the_end": count - visible,
        "added_ms": spread([answer.added_ms for answer in counted]),
        "total_ms": spread([answer.total_ms for answer in counted]),
        "parts_ms": added_by_step(counted),
        "histogram_added_ms": histogram([answer.added_ms for answer in counted]),
        "cpu": cpu.to_json(),
    }


def killed(stack: BenchStack, rate: float, plan: WorkersPlan) -> dict[str, Any]:
    """Kills one of two workers in turn, several times, and starts it again at once."""
    kind = WorkerKind("kill", "kill", plan.latency_in_flight)
    stack.make_worker_topics(kind)
    count = int(rate * plan.kill_every_s * (plan.kills + 1))
    schedule = load.QuerySchedule(kind.topic, count, rate, plan.users)
    kills: list[tuple[str, float]] = []
    with LiveReader(stack.settings, kind.out) as reader, stack.workers(kind, WORKERS) as workers:
        schedule = replace(schedule, begin_at=time.time() + LEAD_S)
        with stack.loading(schedule):
            meter = CpuMeter({"broker": stack.broker.child.pid})
            for number in range(plan.kills):
                _sleep_until(schedule.begin_at + plan.kill_every_s * (number + 1))
                victim = workers[number % WORKERS]
                kills.append((victim.name, time.time()))
                victim.kill()
                victim.start()
            reader.wait_for(count, plan.kill_every_s + DRAIN_S)
            cpu = meter.read()
        time.sleep(0.2)
        answers = [parse_answer(raw) for raw in reader.records_of(kind.out)]
    return kill_figures(schedule, kills, answers) | {"cpu": cpu.to_json()}  # restarted workers count as `others`


def kill_figures(schedule: load.QuerySchedule, kills: Sequence[tuple[str, float]], answers: Sequence[TimedAnswer]) -> dict[str, Any]:
    """Figures of the run. A standstill belongs to the last kill before its end."""
    begin = schedule.begin_at
    by_partition = standstills(ShownAnswer(answer.partition, answer.asked_s, answer.visible_s) for answer in answers)
    all_standstills = [standstill for own in by_partition.values() for standstill in own if standstill.from_s >= begin]
    moments = [at for _, at in kills]
    longest = [_longest(all_standstills, at, until) for at, until in zip(moments, [*moments[1:], float("inf")], strict=True)]
    undisturbed = _longest(all_standstills, begin, moments[0])
    return {
        "rate_per_s": round(schedule.rate, 1),
        "asked": schedule.count,
        "lost": schedule.count - len({answer.id for answer in answers}),
        "repeats": repeats(answers),
        "kills": [{"killed": name, "at_s": round(at - begin, 3), "longest_standstill_s": of} for (name, at), of in zip(kills, longest, strict=True)],
        "longest_standstill_s": max((seconds for of in longest for seconds in of.values()), default=0.0),
        "longest_before_any_kill_s": max(undisturbed.values(), default=0.0),
        "total_ms": spread([answer.total_ms for answer in answers]),
        "timeline": timeline(answers, begin),
    }


def _longest(all_standstills: Sequence[Standstill], from_s: float, until_s: float) -> dict[str, float]:
    """By partition."""
    longest: dict[str, float] = {}
    for standstill in all_standstills:
        if from_s < standstill.to_s <= until_s:
            longest[f"{standstill.partition}"] = max(longest.get(f"{standstill.partition}", 0.0), round(standstill.seconds, 3))
    return longest


def timeline(answers: Sequence[TimedAnswer], begin_s: float) -> dict[str, Any]:
    """Visible answers per partition in bins of `BIN_S`."""
    counted = Counter((answer.partition, int((answer.visible_s - begin_s) / BIN_S)) for answer in answers if answer.visible_s >= begin_s)
    bins = max((at for _, at in counted), default=-1) + 1
    return {"bin_s": BIN_S, "by_partition": {f"{number}": [counted[number, at] for at in range(bins)] for number in sorted({p for p, _ in counted})}}


def histogram(values: Sequence[float], width: float = 5.0) -> dict[str, Any]:
    """Counts in bins of `width`, from 0 on. Negative values count as 0."""
    counted = Counter(int(max(0.0, value) / width) for value in values)
    return {"width": width, "counts": [counted[at] for at in range(max(counted, default=-1) + 1)]}


def _meter(stack: BenchStack, workers: Sequence[Child], sending: Child) -> CpuMeter:
    return CpuMeter({"broker": stack.broker.child.pid, "load": sending.pid, "reader": os.getpid()} | {child.name: child.pid for child in workers})


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.time()))
