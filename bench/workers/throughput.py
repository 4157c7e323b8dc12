"""Answers per second of a worker with a full backlog: one arm after another, from the same backlog."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from bench.workers import load
from bench.workers.answers import TimedAnswer, out_of_order, parse_answer, repeats, steady_rate
from bench.workers.bench_stack import BenchStack
from bench.workers.cpu import CpuMeter, CpuUse
from bench.workers.live_reader import LiveReader
from bench.workers.plan import WorkersPlan
from bench.workers.process import WorkerKind
from infra.errors import CannotContinue
from infra.settings.stream import DeliveryMode, KeyOrder

BACKLOG = "backlog"
USERS = 500
FIRST_S = 40.0


def prepare(stack: BenchStack, plan: WorkersPlan) -> None:
    """Sends the backlog, which all arms read, each in its own consumer group."""
    stack.make_worker_topics(WorkerKind("none", BACKLOG))
    stack.ask(load.QuerySchedule(BACKLOG, plan.backlog, users=USERS))


def arms(plan: WorkersPlan) -> list[WorkerKind]:
    """Exactly-once and at-least-once side by side."""
    modes = {"eos": DeliveryMode.EXACTLY_ONCE, "alo": DeliveryMode.AT_LEAST_ONCE}
    calls = [WorkerKind(f"{name}-{most}", BACKLOG, most, delivery=mode) for most in plan.in_flight for name, mode in modes.items()]
    no_call = [WorkerKind(f"{name}-{max(plan.in_flight)}-no-call", BACKLOG, max(plan.in_flight), 0.0, 0.0, mode) for name, mode in modes.items()]
    ordered = WorkerKind(f"eos-{min(plan.in_flight)}-by-key", BACKLOG, min(plan.in_flight), order=KeyOrder.KEY)
    return [*calls, *no_call, ordered]


def measure(stack: BenchStack, kind: WorkerKind, plan: WorkersPlan, *, count: int = 1, seconds: float | None = None) -> dict[str, Any]:
    """Measures one arm with `count` processes. Raises CannotContinue if there is no answer."""
    stack.make_worker_topics(kind, with_input=False)
    seconds = seconds or plan.throughput_s
    with LiveReader(stack.settings, kind.out) as reader:
        with stack.workers(kind, count) as children:
            if not reader.wait_for(1, FIRST_S):
                raise CannotContinue(f"{kind.name} answered nothing within {FIRST_S:g} s; end of {children[0].log}:\n{children[0].last_lines()}")
            time.sleep(plan.warm_s if kind.high_s else 0.0)
            meter = CpuMeter({"broker": stack.broker.child.pid} | {child.name: child.pid for child in children})
            began = time.time()
            reader.wait_for(plan.backlog, seconds)  # without a call, a worker can finish the backlog earlier
            ended, cpu = time.time(), meter.read()
        answers = [parse_answer(raw) for raw in reader.records_of(kind.out)]
    return _figures(kind, count, answers, began, ended, cpu)


def _figures(kind: WorkerKind, count: int, answers: list[TimedAnswer], began: float, ended: float, cpu: CpuUse) -> dict[str, Any]:
    rate = steady_rate([answer.visible_s for answer in answers], began, ended)
    calls = [answer.call_s for answer in answers if began <= answer.visible_s < ended]
    mean_s = sum(calls) / len(calls) if calls else 0.0
    ideal = count * kind.in_flight / mean_s if mean_s else None
    workers_s = sum(spent for name, spent in cpu.by_process.items() if name != "broker")
    return {
        "arm": kind.name,
        "workers": count,
        "in_flight": kind.in_flight,
        "delivery": kind.delivery.value,
        "order": kind.order.value,
        **{name: round(value, 2) for name, value in asdict(rate).items()},
        "mean_call_ms": round(mean_s * 1000, 2),
        "ideal_per_s": round(ideal, 1) if ideal else None,
        "of_ideal": round(rate.per_s / ideal, 4) if ideal else None,
        "worker_cpu_ms_per_record": round(workers_s * 1000 / rate.records, 3) if rate.records else None,
        "broker_cpu_ms_per_record": round(cpu.by_process["broker"] * 1000 / rate.records, 3) if rate.records else None,
        "repeats": repeats(answers),
        "out_of_order": out_of_order(answers),
        "cpu": cpu.to_json(),
    }
