"""The measurements of `retouch bench workers`, small, on their own broker: they work. The figures mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.workers import latency, poison, throughput
from bench.workers.bench_stack import BenchStack, bench_stack
from bench.workers.plan import QUICK
from bench.workers.process import WorkerKind
from infra.settings import load
from infra.settings.stream import DeliveryMode, KeyOrder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.long("measures under load for a minute or two")]

#: A window of load is longer than the start of its process on a busy machine, and has more than one commit.
PLAN = replace(QUICK, throughput_s=4.0, latency_s=1.5, kill_every_s=2.5, poison_s=6.0, flood=100)
RATE = 30.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchStack]:
    state = tmp_path_factory.mktemp("bench")
    with bench_stack(load(), state / "state", state / "logs") as stack:
        yield stack


@pytest.fixture(scope="module")
def backlog(stack: BenchStack) -> BenchStack:
    throughput.prepare(stack, PLAN)
    return stack


@pytest.mark.parametrize(("delivery", "order"), [(DeliveryMode.AT_LEAST_ONCE, KeyOrder.NONE), (DeliveryMode.EXACTLY_ONCE, KeyOrder.KEY)])
def test_an_arm_has_its_rate_and_its_ideal_rate(backlog: BenchStack, delivery: DeliveryMode, order: KeyOrder) -> None:
    figures = throughput.measure(backlog, WorkerKind(f"arm-{delivery.value}", throughput.BACKLOG, 16, delivery=delivery, order=order), PLAN)
    assert figures["per_s"] > 0
    assert 50 <= figures["mean_call_ms"] <= 500
    assert (figures["repeats"], figures["out_of_order"] if order is KeyOrder.KEY else 0) == (0, 0)


def test_every_query_of_a_steady_load_is_seen_once(stack: BenchStack) -> None:
    figures = latency.added(stack, "steady", RATE, PLAN)
    assert (figures["lost"], figures["repeats"], figures["in_time"]) == (0, 0, True)
    assert figures["added_ms"]["p50"] > 0


def test_a_killed_worker_restarts_and_nothing_is_lost(stack: BenchStack) -> None:
    figures = latency.killed(stack, RATE, PLAN)
    assert (figures["lost"], figures["repeats"], len(figures["kills"])) == (0, 0, 1)
    assert figures["kills"][0]["longest_standstill_s"]


def test_the_cost_of_a_poison_user_is_measured_for_each_variant(stack: BenchStack) -> None:
    figures = poison.measure(stack, RATE, PLAN)
    assert (figures["lost"], figures["repeats"]) == (0, 0)
    assert figures["set_aside"] > 0
    assert all(change is not None for change in figures["p99_change"].values())
