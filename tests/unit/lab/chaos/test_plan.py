"""The plan of faults: determined by the seed, equal shares, and a rest between two hits."""

from __future__ import annotations

from collections import Counter

import pytest

from lab.chaos.plan import BASE_LINK, BROKER_LINK, CLUSTER_FAULTS, KILLS_AND_PAUSES, LEAST_REST_S, PROCESSES, QUIET_S, WARM_UP_S, FaultKind, draw_plan

TEN_MINUTES_S = 600.0
SESSION_S = 10.0
SEEDS = range(10)


def test_a_seed_determines_the_plan() -> None:
    assert draw_plan(7, TEN_MINUTES_S, SESSION_S) == draw_plan(7, TEN_MINUTES_S, SESSION_S) != draw_plan(8, TEN_MINUTES_S, SESSION_S)


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_minutes_have_forty_hits_and_three_of_each_kind_per_process(seed: int) -> None:
    plan = draw_plan(seed, TEN_MINUTES_S, SESSION_S)
    hits = Counter((fault.kind, fault.target) for fault in plan.faults if fault.kind in KILLS_AND_PAUSES)
    assert hits.total() >= 40
    assert min(hits[kind, name] for kind in KILLS_AND_PAUSES for name in PROCESSES) >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_fault_occurs_and_links_are_never_killed(seed: int) -> None:
    faults = draw_plan(seed, TEN_MINUTES_S, SESSION_S).faults
    assert {fault.kind for fault in faults} == set(FaultKind) - set(CLUSTER_FAULTS)
    assert {fault.kind for fault in faults if fault.target == BROKER_LINK} == {FaultKind.DELAY, FaultKind.HOLD, FaultKind.CUT}
    assert {fault.kind for fault in faults if fault.target == BASE_LINK} == {
        FaultKind.SLOW_BASE,
        FaultKind.FAILING_BASE,
        FaultKind.REFUSING_BASE,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_some_pauses_outlast_the_session(seed: int) -> None:
    pauses = [fault.for_s for fault in draw_plan(seed, TEN_MINUTES_S, SESSION_S).faults if fault.kind is FaultKind.PAUSE]
    assert min(pauses) < SESSION_S < max(pauses)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_process_reaches_its_supervisor_s_restart_limit(seed: int) -> None:
    ends = [fault for fault in draw_plan(seed, TEN_MINUTES_S, SESSION_S).faults if fault.kind in (FaultKind.KILL, FaultKind.RESTART)]
    for one in ends:
        assert sum(other.target == one.target and 0 <= other.at_s - one.at_s < 60 for other in ends) <= 60 / LEAST_REST_S + 1


@pytest.mark.parametrize("load_s", [20.0, 60.0, TEN_MINUTES_S])
def test_the_load_starts_and_ends_without_faults(load_s: float) -> None:
    faults = draw_plan(1, load_s, SESSION_S).faults
    assert min(fault.at_s for fault in faults) >= WARM_UP_S
    assert max(fault.ends_s for fault in faults) <= load_s - min(QUIET_S, load_s / 4) + 0.01
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
