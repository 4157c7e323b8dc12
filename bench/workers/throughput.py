"""How many records a worker answers each second when there are always more: one arm after the other, from the same backlog."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from bench.workers import load
from bench.workers.answers import Answer, out_of_order, read, repeats, steady_rate
from bench.workers.cpu import Cpu, Meter
from bench.workers.plan import Plan
from bench.workers.site import Kind, Site
from bench.workers.watch import Watch
from infra.errors import CannotContinue
from infra.settings import DeliveryMode, KeyOrder

BACKLOG = "backlog"
USERS = 500
FIRST_S = 40.0


def prepare(site: Site, plan: Plan) -> None:
    """The backlog that all arms read, each in a group of its own."""
    site.make_line(Kind("none", BACKLOG))
    site.ask(load.Plan(BACKLOG, plan.backlog, users=USERS))


def arms(plan: Plan) -> list[Kind]:
    """Exactly-once and at-least-once side by side."""
    modes = {"eos": DeliveryMode.EXACTLY_ONCE, "alo": DeliveryMode.AT_LEAST_ONCE}
    calls = [Kind(f"{name}-{most}", BACKLOG, most, delivery=mode) for most in plan.in_flight for name, mode in modes.items()]
    no_call = [Kind(f"{name}-{max(plan.in_flight)}-no-call", BACKLOG, max(plan.in_flight), 0.0, 0.0, mode) for name, mode in modes.items()]
    ordered = Kind(f"eos-{min(plan.in_flight)}-by-key", BACKLOG, min(plan.in_flight), order=KeyOrder.KEY)
    return [*calls, *no_call, ordered]


def measure(site: Site, kind: Kind, plan: Plan, *, count: int = 1, seconds: float | None = None) -> dict[str, Any]:
    """One arm, by `count` processes. Raises CannotContinue when nothing comes."""
    site.make_line(kind, with_input=False)
    seconds = seconds or plan.throughput_s
    with Watch(site.settings, kind.out) as watch:
        with site.workers(kind, count) as children:
            if not watch.wait_for(1, FIRST_S):
                raise CannotContinue(f"{kind.name} answered nothing within {FIRST_S:g} s; end of {children[0].log}:\n{children[0].last_lines()}")
            time.sleep(plan.warm_s if kind.high_s else 0.0)
            meter = Meter({"broker": site.broker.child.pid} | {child.name: child.pid for child in children})
            began = time.time()
            watch.wait_for(plan.backlog, seconds)  # without a call a worker is through before its time
            ended, cpu = time.time(), meter.read()
        answers = [read(raw) for raw in watch.raws(kind.out)]
    return _figures(kind, count, answers, began, ended, cpu)


def _figures(kind: Kind, count: int, answers: list[Answer], began: float, ended: float, cpu: Cpu) -> dict[str, Any]:
    rate = steady_rate([answer.visible_s for answer in answers], began, ended)
    calls = [answer.call_s for answer in answers if began <= answer.visible_s < ended]
    mean_s = sum(calls) / len(calls) if calls else 0.0
    ideal = count * kind.in_flight / mean_s if mean_s else None
    workers_s = sum(spent for name, spent in cpu.by_part.items() if name != "broker")
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
        "broker_cpu_ms_per_record": round(cpu.by_part["broker"] * 1000 / rate.records, 3) if rate.records else None,
        "repeats": repeats(answers),
        "out_of_order": out_of_order(answers),
        "cpu": cpu.to_json(),
    }
