"""The effect of one user's failing records on the others' latency: windows of load with and without them, on the same two workers.

Latency is from sending to visible, including the call; the added latency is reported too. Each repetition has all variants, each time
with a different first one, so that a drift of the machine affects all variants equally.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from bench.workers import load
from bench.workers.answers import TimedAnswer, added_by_step, parse_answer, repeats, spread
from bench.workers.bench_stack import BenchStack
from bench.workers.latency import LEAD_S, SKIP_S
from bench.workers.live_reader import LiveReader
from bench.workers.plan import WORKERS, WorkersPlan
from bench.workers.process import CallBehaviour, TimedBehaviour, WorkerKind
from infra.errors import CannotContinue
from schemas.topics import dead_letter_topic

NAME = "poison"
#: Bound for the remaining records of a window.
DRAIN_S = 60.0
#: The failures last this much longer than the window, until its last queries are answered.
AFTER_S = 1.5


class Variant(StrEnum):
    WITHOUT = "without"
    RETRY = "retry"  # each of the user's records raises RetryLater, without end
    POISON = "poison"  # each raises PoisonMessage
    FLOOD = "flood"  # the user sends thousands of records at once


@dataclass(frozen=True)
class Window:
    variant: Variant
    repetition: int
    begin_s: float
    end_s: float


def order(repetitions: int) -> list[tuple[int, Variant]]:
    """Every variant once per repetition; each repetition starts with the next variant."""
    variants = list(Variant)
    return [(repetition, variants[(repetition + offset) % len(variants)]) for repetition in range(repetitions) for offset in range(len(variants))]


def measure(bench_stack: BenchStack, rate: float, plan: WorkersPlan) -> dict[str, Any]:
    """`rate` is for all users together, without the flood."""
    kind = WorkerKind(NAME, NAME, plan.latency_in_flight)
    bench_stack.make_worker_topics(kind)
    sent = 0
    windows: list[Window] = []
    with LiveReader(bench_stack.settings, kind.out, dead_letter_topic(kind.topic)) as reader, bench_stack.workers(kind, WORKERS):
        sent += _window(bench_stack, plan, rate, Variant.WITHOUT, min(SKIP_S, plan.poison_s))[1]  # does not count: connections open, code warms up
        for repetition, variant in order(plan.repetitions):
            _drain(reader, sent)
            schedule, count = _window(bench_stack, plan, rate, variant, plan.poison_s)
            sent += count
            windows.append(Window(variant, repetition, schedule.begin_at, schedule.begin_at + schedule.seconds))
        _drain(reader, sent)
        time.sleep(0.2)
        answers, dead_letters = [parse_answer(raw) for raw in reader.records_of(kind.out)], len(reader.records_of(dead_letter_topic(kind.topic)))
    asked = {"rate_per_s": round(rate, 1), "users": plan.users, "flood": plan.flood, "asked": sent, "set_aside": dead_letters}
    lost = max(0, sent - len({answer.id for answer in answers}) - dead_letters)
    return asked | compare(windows, answers) | {"lost": lost, "repeats": repeats(answers)}


def _window(bench_stack: BenchStack, plan: WorkersPlan, rate: float, variant: Variant, seconds: float) -> tuple[load.QuerySchedule, int]:
    """Sends the load of one window. Returns after the last query."""
    begin_at = time.time() + LEAD_S
    until_s = begin_at + seconds + AFTER_S
    behaviour = {Variant.RETRY: CallBehaviour.RETRY, Variant.POISON: CallBehaviour.POISON}.get(variant, CallBehaviour.NONE)
    schedule = load.QuerySchedule(NAME, int(rate * seconds), rate, plan.users, begin_at=begin_at, marked=TimedBehaviour(behaviour, until_s))
    count = schedule.count
    with ExitStack() as stack:
        senders = [stack.enter_context(bench_stack.loading(schedule))]
        if variant is Variant.FLOOD:
            flood = replace(schedule, count=plan.flood, rate=0.0, users=1, marked=TimedBehaviour(CallBehaviour.FLOOD, until_s))
            senders.append(stack.enter_context(bench_stack.loading(flood)))
            count += plan.flood
        for sender in senders:
            if not sender.wait(LEAD_S + seconds + DRAIN_S) or sender.exit_code:
                raise CannotContinue(f"{sender.name} did not send its queries; end of {sender.log}:\n{sender.last_lines()}")
    return schedule, count


def _drain(reader: LiveReader, sent: int) -> None:
    """Waits until every record is an answer or a dead letter."""
    if not reader.wait_for(sent, DRAIN_S):
        raise CannotContinue(f"only {reader.count} of {sent} queries were answered or set aside within {DRAIN_S:g} s")


def compare(windows: Sequence[Window], answers: Sequence[TimedAnswer]) -> dict[str, Any]:
    """Figures of the other users: per window, and over all windows of a variant."""
    others = [answer for answer in answers if answer.user != load.MARKED_USER]
    by_variant: dict[Variant, list[TimedAnswer]] = {variant: [] for variant in Variant}
    rows = []
    for window in windows:
        in_window = [answer for answer in others if window.begin_s <= answer.asked_s < window.end_s]
        by_variant[window.variant] += in_window
        rows.append({"variant": window.variant.value, "repetition": window.repetition} | _figures(in_window))
    pooled = {variant.value: _figures(of_variant) for variant, of_variant in by_variant.items()}
    return {"windows": rows, "pooled": pooled, "p99_change": changes(rows), "without_spread": noise(rows)}


def changes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Relative change of the others' p99: 0.1 is 10 % more than without failures. Compares medians over the windows, so that one
    disturbed window does not decide."""
    base = p99s(rows, Variant.WITHOUT)
    changes: dict[str, float | None] = {}
    for variant in (Variant.RETRY, Variant.POISON, Variant.FLOOD):
        values = p99s(rows, variant)
        changes[variant.value] = round(statistics.median(values) / statistics.median(base) - 1, 4) if base and values else None
    return changes


def noise(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The range of the p99s of the windows without failures, as a share of the lowest."""
    values = p99s(rows, Variant.WITHOUT)
    return round(max(values) / min(values) - 1, 4) if values else None


def p99s(rows: Sequence[Mapping[str, Any]], variant: Variant) -> list[float]:
    return [row["total_ms"]["p99"] for row in rows if row["variant"] == variant.value and row["total_ms"]]


def _figures(answers: Sequence[TimedAnswer]) -> dict[str, Any]:
    return {
        "total_ms": spread([answer.total_ms for answer in answers]),
        "added_ms": spread([answer.added_ms for answer in answers]),
        "parts_ms": added_by_step(answers),
    }
